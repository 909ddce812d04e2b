"""Programs of classification networks equal `ClassPredictor`."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.image_files import center_box, crop_pixels
from gsto_jax.predict import verify as verifying
from gsto_jax.predict.class_program import center_crop, class_source
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.predict.export import export
from gsto_jax.predict.programs import MODEL_FILES
from gsto_jax.predict.verify import random_batches, verify
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel
from gsto_jax.training.task import initial_state
from tests.gsto_jax.small_classes import class_values, make_mean_task


@pytest.mark.parametrize(
    ("shape", "size", "fraction"),
    [
        ((97, 131), (64, 48), 0.875),
        ((40, 30), (64, 48), 0.875),  # enlarged
        ((301, 450), (32, 32), 1.0),
        ((64, 48), (64, 48), 1.0),  # unchanged
    ],
)
def test_crops_equal_those_of_pillow(shape, size, fraction):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    expected = crop_pixels(image, center_box(shape, size, fraction), size)
    difference = np.abs(np.asarray(center_crop(image[None], size, fraction))[0] - expected)
    assert difference.max() <= 1 and difference.mean() < 2e-3


def small_predictor():
    """Returns the predictor of a network that compares the channels' means."""
    task, plain = make_mean_task(flip=True)
    return ClassPredictor(TrainedModel(task, {}, make_mesh(jax.devices()[:1]), Path("7"), plain))


def test_probabilities_equal_the_predictor():
    predictor = small_predictor()
    (images,) = random_batches([(2, 41, 50)])
    outputs = class_source(predictor).call(images)
    expected = [predictor(image).probabilities for image in images]
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-4)
    assert np.ptp(expected[0]) > 1e-3, "shows nothing"


def test_shapes_are_free():
    source = class_source(small_predictor())
    outputs = jax.eval_shape(source.call, *source.tracing_specs())
    assert {name: str(x.shape) for name, x in outputs.items()} == {"probabilities": "(b, 3)"}


def test_verify_rejects_other_classes():
    predictor, batch = small_predictor(), {"image": np.zeros((2, 9, 9, 3), np.uint8)}
    expected = {"probabilities": np.float32([[0.5, 0.3, 0.2], [0.4, 0.395, 0.205]])}
    tie = {"probabilities": np.float32([[0.5, 0.3, 0.2], [0.397, 0.398, 0.205]])}
    other = {"probabilities": np.float32([[0.3, 0.5, 0.2], [0.4, 0.395, 0.205]])}
    check = verifying._compare("model.onnx", batch, expected, tie, "float32")
    assert (check.shape, check.agreement) == ((2, 9, 9), 1)
    assert check.error == pytest.approx(0.006, rel=1e-3)
    verifying._require(check, "float32", Path("out"))
    check = verifying._compare("model.onnx", batch, expected, other, "float32")
    assert check.agreement == 0.5
    with pytest.raises(UserError, match=r"differs .*model\.onnx: 2 of 9x9, 50\.0000% of classes"):
        verifying._require(check, "float32", Path("out"))
    assert verifying.random_inputs(predictor, None)[2]["image"].shape == (1, 33, 25, 3)


NEEDS_ONNX = pytest.mark.skipif(
    not all(map(find_spec, ("jax2onnx", "onnx", "onnxruntime"))),
    reason="the extra onnx is not installed (jax2onnx, onnx, onnxruntime)",
)


@pytest.mark.slow
@NEEDS_ONNX
def test_exports_equal_the_checkpoint(tmp_path):
    config = class_values(variant="mini", upsample="nearest")
    config["eval"] |= {"flip": True}
    task, mesh = task_from_config(config, 10), make_mesh(jax.devices()[:1])
    state = replace(initial_state(task, mesh), step=np.int32(7))
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(state, {"config": config, "data": {}})
    predictor = ClassPredictor.load(tmp_path / "run")
    (images,) = random_batches([(4, 70, 60)])
    export(predictor, tmp_path / "out", tuple(MODEL_FILES), calibration=images)
    checks = verify(predictor, tmp_path / "out", images=images)
    assert {check.file for check in checks} == set(MODEL_FILES.values())
    assert all(check.task == "classification" and check.agreement == 1 for check in checks)
