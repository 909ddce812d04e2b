"""Names that the documents mention outside commands of main.py exist: flags, modules, tests."""

import importlib
import re

import pytest

from modes.registry import FLAGS
from tests.documents import PAGES, ROOT, blocks, commands, name

FOLDERS = ("benchmarks", "examples")
SCRIPTS = "".join(path.read_text() for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))
OTHER_PROGRAMS = ("gcloud", "gcsfuse", "srun", "tensorboard", "--spot")
MAIN_FLAGS = {*FLAGS, "config", "help", "help_config", "mode"}
TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def inline_code(path):
    """Returns the code in backticks, outside blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))


def unknown_flags(text, source):
    """Returns flags that neither main.py nor the source of a script defines."""
    flags = set(re.findall(r"(?<![\w=-])--([a-z]\w*)\b(?!-)", text)) - MAIN_FLAGS
    return {flag for flag in flags if f'{flag}"' not in source}


def script_source(script):
    """Returns the source of a script and of the benchmarks that it imports, with their flags."""
    text = (ROOT / script).read_text()
    modules = re.findall(r"^from benchmarks\.(\w+) import", text, flags=re.MULTILINE)
    return "".join([text, *((ROOT / f"benchmarks/{module}.py").read_text() for module in modules)])


def resolves(dotted):
    """Returns whether a dotted name is a module or an attribute of one."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[n:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_inline_names_exist(path):
    for code in inline_code(path):
        if not any(program in code for program in OTHER_PROGRAMS):
            assert not unknown_flags(code, SCRIPTS), code
        for dotted in re.findall(r"\b(?:gsto_jax|data_pipelines|modes|configs)(?:\.\w+)+", code):
            assert dotted.endswith((".py", ".X")) or resolves(dotted), dotted
    assert not set(re.findall(r"(?<!\w)test_\w+\.py", path.read_text())) - TESTS


def test_scripts_and_their_flags_exist():
    for block in blocks("bash"):
        for command in commands(block.text):
            if script := re.search(r"python ((?:benchmarks|examples)/\w+\.py)", command):
                assert not unknown_flags(command, script_source(script[1])), command
