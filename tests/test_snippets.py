"""Python snippets of the documents: each defines what it uses, or is a part of an example."""

import builtins
import re
import symtable
import textwrap
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
SNIPPETS = [
    (path.relative_to(ROOT).as_posix(), number, code)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]
EXAMPLES = "\n".join(path.read_text() for path in (ROOT / "examples").glob("*.py"))


def names_of(table, kind):
    found = {symbol.get_name() for symbol in table.get_symbols() if kind(symbol)}
    return found.union(*(names_of(child, kind) for child in table.get_children()), set())


def undefined(code):
    """Returns the global names that a program reads and nowhere defines."""
    table = symtable.symtable(code, "snippet", "exec")
    defined = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()}
    defined |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_imported()}
    used = names_of(table, lambda symbol: symbol.is_global() and symbol.is_referenced())
    used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    return used - defined - set(dir(builtins))


def test_undefined_names_are_found():
    assert undefined("import a\ndef f(x):\n  return a.b(x, y)\nf(z)") == {"y", "z"}


@pytest.mark.parametrize(("path", "number", "code"), SNIPPETS)
def test_a_snippet_defines_what_it_uses(path, number, code):
    if code.startswith(" "):  # a few lines of an example
        assert textwrap.dedent(code) in textwrap.dedent(EXAMPLES) or code in EXAMPLES
        return
    assert undefined(code) == set()


@pytest.mark.parametrize(
    "path", ["docs/porting.md", pytest.param("README.md", marks=pytest.mark.slow)]
)
def test_snippets_without_files_run(path):
    for document, _, code in SNIPPETS:
        if document == path and not code.startswith(" ") and "RUN" not in code:
            quick = code.replace("jax.jit(model.init)", "partial(jax.eval_shape, model.init)")
            quick = quick.replace("model.apply(", "jax.eval_shape(model.apply, ")
            names = {"__name__": "snippet"}
            exec("from functools import partial\n" + quick, names)
            if "outputs" in names:
                assert names["outputs"].logits.shape == (1, 16, 32, 19)


@pytest.mark.slow
def test_weights_go_out_and_come_back_as_shown(tmp_path, monkeypatch):
    of_weights = (code for path, _, code in SNIPPETS if path == "docs/weights.md")
    (code,) = (code for code in of_weights if "imported" in code)
    monkeypatch.chdir(tmp_path)
    setup, use = code.split("imported = ")
    names = {"__name__": "snippet"}
    exec(setup, names)
    variables = names["initial_variables"](names["model"], seed=3)
    names["export_weights"]("weights.pth", variables, names["GSTO_FORMAT"])
    use = use.replace("model.apply(", "jit(model.apply)(")
    exec("imported = " + use, names | {"jit": jax.jit})
    assert (tmp_path / "back.safetensors").stat().st_size > 10**7
