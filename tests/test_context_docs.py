"""The code and the statements of docs/context.md and its example are correct."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from gsto_jax.layers.gates import GATING_MODES
from tests.gsto_jax.context_counts import COUNTS

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "context.md").read_text()
EXAMPLE = runpy.run_path(str(ROOT / "examples" / "context_modules.py"))


@pytest.mark.parametrize(("name", "kind"), [("ppm", "supervised"), ("aspp", "unsupervised")])
def test_the_example_learns(name, kind):
    losses = EXAMPLE["train"](name, kind)
    assert len(losses) == 20
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("kind", GATING_MODES)
@pytest.mark.parametrize("name", ["ppm", "aspp"])
def test_every_module_fits_the_example(name, kind):
    model = EXAMPLE["EncoderDecoder"](EXAMPLE["MODULES"][name](gating=kind, num_classes=4))
    image = jnp.zeros((2, 36, 52, 3))
    (logits, predicted), variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), image
    )
    assert logits.shape == (2, 36, 52, 4)
    assert (predicted is not None) == (kind in ("supervised", "head_only"))
    gate = variables["params"]["context"].get("gates", {}).get("gate")
    assert (gate is not None) == (kind in ("supervised", "unsupervised"))


def test_the_segmenter_runs():
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names = {"__name__": "document"}
    exec(code, names)
    image = jnp.ones((2, 32, 48, 3))
    (logits, class_logits, gates), variables = jax.eval_shape(
        names["Segmenter"]().init_with_output, jax.random.key(0), image
    )
    assert logits.shape == class_logits.shape == (2, 8, 12, 19)
    assert set(gates) == {"bin1", "bin2", "bin3", "bin6"}
    assert "batch_stats" in variables


def test_the_table_holds_the_exact_counts():
    rows = re.findall(r"\| (PPM|ASPP), ([\w/ ]+) \| (\d+) \| (\d+) \| (\d+) \|", DOCUMENT)
    kinds = {
        "plain": "none",
        "w/ sup": "head_only",
        "unsupervised GSTO": "unsupervised",
        "supervised GSTO": "supervised",
    }
    result = {(name.lower(), kinds[row]): tuple(map(int, rest)) for name, row, *rest in rows}
    assert result == COUNTS


def test_files_that_are_named_exist():
    paths = re.findall(r"(?:examples|configs|tests)/[\w/]+\.py", DOCUMENT)
    assert len(paths) > 4
    for name in paths:
        assert (ROOT / name).exists(), name
