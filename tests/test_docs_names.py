"""Every flag, config option, Python name and file that README and docs name exists."""

import importlib
import re
from pathlib import Path

import pytest

from configs import base, loading

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
OPTIONS = loading.names(base.get_config())
OPTION_NAMES = {".".join(name.split(".")[:n]) for name in OPTIONS for n in range(1, 4)}
SECTIONS = sorted({name.split(".")[0] for name in OPTIONS if "." in name})
MODULE_SOURCES = "".join(path.read_text() for path in (ROOT / "modes").glob("*.py"))
FLAGS = {*re.findall(r'DEFINE_\w+\(\s*"(\w+)"', MODULE_SOURCES), "config", "help", "help_config"}
SCRIPTS = "".join(
    path.read_text()
    for folder in ("benchmarks", "examples")
    for path in (ROOT / folder).glob("*.py")
)
SUFFIXES = ("jax", "onnx", "json", "safetensors", "pth", "bin", "py", "csv", "onnx_opset")
FOREIGN_FLAGS = {"spot"}
FOREIGN = ("gcloud", "srun", "gcsfuse", "pip", "git", "tensorboard", "curl")
"""Programs whose flags are not ours."""


def code_of(page):
    """Returns the commands, the inline code and the text without Python blocks of a page."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    commands = "\n".join(code for kind, code in blocks if kind != "python")
    commands = commands.replace("\\\n", " ").splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return (
        commands,
        re.findall(r"`([^`\n]+)`", prose),
        re.sub(r"```python.*?```", "", text, flags=re.DOTALL),
    )


def flags_of(text):
    return {flag for flag in re.findall(r"(?<![\w=-])--([a-z]\w*)\b(?!-)", text)}


@pytest.mark.parametrize("page", PAGES)
def test_flags_exist(page):
    commands, inline, _ = code_of(page)
    for command in commands:
        script = re.search(r"python3?(?:\.\d+)? ((?:benchmarks|examples)/\w+\.py)", command)
        if script:
            source = (ROOT / script[1]).read_text()
            unknown = {flag for flag in flags_of(command) - FLAGS if f'{flag}"' not in source}
        elif "main.py" in command:
            after = command.split("main.py", 1)[1]
            unknown = flags_of(after) - FLAGS
        else:
            continue
        assert not unknown, f"{command}: {unknown}"
    for code in inline:
        if not any(program in code for program in FOREIGN):
            unknown = {
                flag for flag in flags_of(code) - FLAGS - FOREIGN_FLAGS if f'{flag}"' not in SCRIPTS
            }
            assert not unknown, f"{code}: {unknown}"


@pytest.mark.parametrize("page", PAGES)
def test_config_options_exist(page):
    commands, inline, _ = code_of(page)
    named = re.findall(r"--config\.([\w.]+)", "\n".join([*commands, *inline]))
    pattern = rf"(?:config\.)?((?:{'|'.join(SECTIONS)})\.[a-z][\w.]*)(?==|$)"
    named += [match[1] for code in inline if (match := re.match(pattern, code))]
    placeholders = {"SECTION.FIELD", "FIELD", "X", "NAME"}
    unknown = {
        name
        for name in named
        if name not in OPTION_NAMES | placeholders and name.rpartition(".")[2] not in SUFFIXES
    }
    assert not unknown


@pytest.mark.parametrize("page", PAGES)
def test_python_names_exist(page):
    _, inline, _ = code_of(page)
    for code in inline:
        for name in re.findall(r"\b(?:gsto_jax|data_pipelines|modes|configs)(?:\.\w+)+", code):
            if not name.endswith((".py", ".X")):
                assert resolves(name), name


def resolves(name):
    """Returns whether a dotted name is a module or an attribute of one."""
    parts = name.split(".")
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


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page):
    _, _, text = code_of(page)
    folders = "gsto_jax|data_pipelines|configs|modes|tests|benchmarks|examples"
    named = set(re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]*[\w/])", text))
    missing = {
        name
        for name in named
        if not (ROOT / name).exists()
        and not re.fullmatch(r"configs/(?:X|NAME|MINE|\w*mine\w*|my\w*)(?:\.py)?", name)
    }
    assert not missing
    tests = set(re.findall(r"(?<![\w/])(test_\w+\.py)", text))
    assert not tests - {path.name for path in (ROOT / "tests").rglob("test_*.py")}
