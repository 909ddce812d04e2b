"""Programs of pose networks equal `PosePredictor`."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context

import jax
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.image_files import crop_person
from gsto_jax.predict import pose_program
from gsto_jax.predict import verify as verifying
from gsto_jax.predict.export import export
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.pose_program import pose_source
from gsto_jax.predict.verify import verify
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.task import initial_state
from tests.gsto_jax.pose_runs import pose_values
from tests.gsto_jax.small_pose import BOXES, make_pose_predictor, onnx_error, random_image


@pytest.mark.parametrize(
    "refinement, flip, shift, udp, tolerance",
    [("quarter", True, True, False, 1e-3), ("dark", True, False, True, 0.1)],
)
def test_joints_equal_the_predictor(refinement, flip, shift, udp, tolerance):
    predictor = make_pose_predictor(refinement, flip, shift, udp)
    outputs = jax.jit(pose_source(predictor).call)(random_image(), BOXES.astype(np.float32))
    expected = predictor(random_image(), BOXES)
    assert np.ptp(expected.poses[..., :2], 1).max() > 50, "shows nothing"
    np.testing.assert_allclose(outputs["joints"], expected.poses, atol=tolerance)
    np.testing.assert_allclose(outputs["scores"], expected.scores, rtol=1e-4)


@pytest.mark.parametrize("udp", [False, True])
def test_crops_equal_those_of_opencv(udp):
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    boxes, size, padding = BOXES.astype(np.float32), (64, 48), 1.25

    @jax.jit
    def crop(image, boxes):
        center, frame = pose_program._frames(boxes, size, padding)
        return pose_program._crop(image, center, frame, size, udp), center, frame

    crops, centers, frames = crop(image, boxes)
    for n, box in enumerate(boxes):
        expected = crop_person(image, box, size, padding, udp)
        difference = np.abs(np.asarray(crops[n]) - expected["image"])
        assert difference.max() <= 1 and difference.mean() < 0.01
        np.testing.assert_allclose(centers[n], expected["center"], rtol=1e-6)
        np.testing.assert_allclose(frames[n], expected["frame"], rtol=1e-6)


def test_shapes_are_free():
    source = pose_source(make_pose_predictor())
    outputs = jax.eval_shape(source.call, *source.tracing_specs())
    assert {name: str(x.shape) for name, x in outputs.items()} == {
        "joints": "(n, 17, 3)",
        "scores": "(n,)",
    }
    image, boxes = source.tracing_specs((40, 50))
    assert (image.shape, str(boxes.shape)) == ((40, 50, 3), "(n, 4)")


NEEDS_ONNX = pytest.mark.skipif(
    not all(map(find_spec, ("jax2onnx", "onnx", "onnxruntime"))),
    reason="the extra onnx is not installed (jax2onnx, onnx, onnxruntime)",
)


@pytest.mark.slow
@NEEDS_ONNX
@pytest.mark.parametrize(
    ("refinement", "limit"),
    [
        pytest.param("quarter", 1e-2, marks=pytest.mark.long),
        ("dark", 0.1),
        pytest.param("none", 1e-2, marks=pytest.mark.long),
    ],
)
def test_onnx_joints_equal_the_predictor(refinement, limit):
    # In a subprocess, since jax2onnx patches JAX.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(onnx_error, refinement).result() < limit


def saved_predictor(run, **sections):
    """Returns the predictor of a checkpoint of random parameters."""
    config = pose_values(gfm=False, **sections)
    task, mesh = task_from_config(config, 10), make_mesh(jax.devices()[:1])
    start = initial_state(task, mesh)
    with Checkpoints(run / "checkpoints") as checkpoints:
        state = replace(start, step=np.int32(7))
        checkpoints.save(state, {"config": config, "data": {}})
    return PosePredictor.load(run)


@pytest.mark.slow
@NEEDS_ONNX
@pytest.mark.parametrize("formats", [("jax",), ("onnx", "onnx-float16")])
def test_exports_equal_the_checkpoint(formats, tmp_path):
    predictor = saved_predictor(tmp_path / "run", eval={"flip": True})
    export(predictor, tmp_path / "out", formats)
    checks = verify(predictor, tmp_path / "out")
    assert len(checks) == len(formats)
    assert min(check.agreement for check in checks) >= 0.98
    assert all(check.task == "pose" and check.shape[0] == 4 for check in checks)


def test_verify_rejects_distant_joints(tmp_path, monkeypatch):
    joints = np.random.default_rng(0).uniform(1, 40, (2, 17, 3)).astype(np.float32)
    moved = joints + np.float32([0.2, 0, 0])
    batch = {"image": np.zeros((50, 60, 3), np.uint8)}
    equal = verifying._compare("model.jax", batch, *[{"joints": joints}] * 2, dtype="float32")
    assert (equal.shape, equal.agreement, equal.error) == ((2, 50, 60), 1, 0)
    pair = {"joints": joints}, {"joints": moved}
    check = verifying._compare("model.jax", batch, *pair, dtype="float32")
    assert check.agreement == 0
    with pytest.raises(UserError, match=r"model\.jax: 2 persons in 50x60"):
        verifying._require(check, "float32", tmp_path)
    near = verifying._compare("model.int8.onnx", batch, *pair, dtype="int8")
    assert near.agreement == 1
    one_moved = np.concatenate([moved[:1, :1], joints[:1, 1:]], 1), joints[1:]
    pair = {"joints": joints}, {"joints": np.concatenate(one_moved)}
    check = verifying._compare("model.jax", batch, *pair, dtype="float32")
    assert check.agreement == pytest.approx(33 / 34)
    verifying._require(check, "float32", tmp_path)
