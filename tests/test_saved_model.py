"""The example that converts a network for TensorFlow and LiteRT."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONVERT = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
from examples.saved_model import convert
from gsto_jax.predict.single_pass import segmentation_source
from tests.gsto_jax.small_network import make_predictor
convert(segmentation_source(make_predictor(80)), Path(sys.argv[1]), (49, 70))
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("tensorflow"), reason="tensorflow is not installed")
def test_converted_programs_equal_the_export(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", CONVERT, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    names = [line.rpartition(" differ")[0] for line in result.stdout.splitlines()]
    assert names == ["saved_model: labels", "saved_model: logits", "model.tflite: logits"]
    assert (tmp_path / "model.tflite").stat().st_size > 0
