"""What the README shows works: its code runs, and its commands name files that exist."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_decoder_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (code,) = (block for block in blocks if "class Decoder" in block)
    names = {"__name__": "readme"}
    exec(code, names)
    deep, shallow = jnp.ones((1, 8, 8, 128)), jnp.ones((1, 16, 16, 64))
    init = names["Decoder"]().init_with_output
    (up, down, logits), _ = jax.eval_shape(init, jax.random.key(0), deep, shallow)
    assert up.shape == (1, 16, 16, 64)
    assert down.shape == (1, 8, 8, 64)
    assert logits.shape == (1, 8, 8, 19)


def test_commands_and_links_name_files_that_exist():
    named = re.findall(r"--config=([\w/]+\.py)", README) + re.findall(r"\]\((\w[^):]+)\)", README)
    named += re.findall(r"`(tests/[\w/.]+)`", README)
    assert len(named) > 8
    for name in named:
        assert (ROOT / name).exists(), name
