"""Exported programs predict as their checkpoint does."""

import json
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.predict.exported import ExportedPredictor
from gsto_jax.predict.exported_classes import ExportedClassPredictor
from gsto_jax.predict.exported_pose import ExportedPosePredictor
from gsto_jax.predict.outputs import MEASURES
from gsto_jax.predict.programs import Program, ProgramError, find_program, load_program
from gsto_jax.predict.single_pass import make_program
from tests.gsto_jax.exported_programs import (
    CLASSES,
    describe,
    write_class_program,
    write_pose_program,
    write_program,
)
from tests.gsto_jax.small_network import image_of, make_predictor

NEEDS_ONNX = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime"))), reason="the extra onnx is not installed"
)


def exported(predictor, **options):
    """The program of a predictor, without a file."""
    protocol, run = predictor.protocol, jax.jit(make_program(predictor))
    steps = {
        "long_side": predictor.long_side,
        "base_size": protocol.base_size,
        "fixed_size": protocol.fixed_size,
        "pad_to": protocol.pad_to or "published",
    }
    description = describe(
        classes=predictor.classes,
        palette=predictor.palette,
        preprocessing=steps,
        settings=predictor.config,
    )
    call = lambda inputs: jax.tree.map(np.asarray, run(inputs["image"]))  # noqa: E731
    return ExportedPredictor(Program(Path("model.jax"), "jax", description, call), **options)


@pytest.mark.parametrize(
    ("long_side", "settings", "size"),
    [
        (0, {"pad_to": 32, "pad": "edge"}, (70, 53)),
        (48, {"pad_to": 32}, (70, 53)),
        (0, {"data": {"fixed_size": (45, 53)}, "score": "softmax"}, (20, 31)),
        (0, {"data": {"base_size": 40}}, (33, 60)),
    ],
)
def test_predictions_equal_those_of_the_checkpoint(long_side, settings, size):
    predictor, image = make_predictor(long_side, **settings), image_of(size)
    expected = predictor(image, measures=MEASURES)
    actual = exported(predictor)(image, measures=MEASURES)
    assert (actual.labels == expected.labels).mean() > 0.999
    for name, tolerance in (("probabilities", 2e-3), ("confidence", 1e-4), ("entropy", 1e-4)):
        values, reference = getattr(actual, name), getattr(expected, name)
        assert (values.dtype, values.shape) == (reference.dtype, reference.shape)
        np.testing.assert_allclose(values, reference, atol=tolerance)
    assert (actual.classes, actual.palette) == (expected.classes, expected.palette)
    assert actual.overlay().shape == (*size, 3)


def test_unsure_pixels_equal_those_of_the_checkpoint():
    options = {"unsure_below": 0.6}
    predictor, image = make_predictor(options=options), image_of((40, 56))
    actual, expected = exported(predictor, **options)(image), predictor(image)
    assert 0 < expected.unsure_count < expected.labels.size
    assert (actual.labels == expected.labels).mean() > 0.999
    assert actual.unsure_label == expected.unsure_label == 255
    with pytest.raises(UserError, match=r"unsure_below must be .*got 2"):
        exported(predictor, unsure_below=2.0)
    with pytest.raises(UserError, match=r"measures must be .*got 'margin'"):
        exported(predictor)(image, measures=["margin"])


def blocks(shape=(2, 3)):
    """An image of blocks of 8x8 pixels of one color, and their classes."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, shape)
    colors = np.eye(3, dtype=np.uint8)[classes] * 200 + 20
    return colors.repeat(8, 0).repeat(8, 1), classes


@NEEDS_ONNX
def test_onnx_files(tmp_path):
    path = tmp_path / "net.onnx"
    write_program(path, describe())
    image, classes = blocks()
    predictor = ExportedPredictor.load(path)
    prediction = predictor(image, measures=["confidence"])
    np.testing.assert_array_equal(prediction.labels[4::8, 4::8], classes)
    logits = np.array([220, 20, 20]) / 64
    expected = np.exp(logits[0]) / np.exp(logits).sum()
    np.testing.assert_allclose(prediction.confidence[4::8, 4::8], expected, rtol=1e-5)
    assert prediction.classes == CLASSES
    assert predictor.program.runtime == "onnx"
    batch = predictor.program.call({"image": np.stack([image, image[::-1]])})
    np.testing.assert_array_equal(batch["labels"][0], prediction.labels)
    with pytest.raises(ProgramError, match=r"net\.onnx fails in onnxruntime .*\(1, 4, 4, 5\)"):
        predictor.program.call({"image": np.zeros((1, 4, 4, 5), np.uint8)})


@NEEDS_ONNX
def test_pose_programs(tmp_path):
    write_pose_program(tmp_path / "model.onnx")
    predictor = ExportedPosePredictor.load(tmp_path / "model.onnx")
    image = np.zeros((60, 80, 3), np.uint8)
    prediction = predictor(image, boxes=[[10, 20, 30, 40], [0, 5, 8, 9]])
    expected = [[[10, 20, 0.75], [40, 20, 0.75]], [[0, 5, 0.75], [8, 5, 0.75]]]
    np.testing.assert_allclose(prediction.poses, expected)
    assert prediction.overlay()[20, 25].any(), "the line between the joints"
    np.testing.assert_allclose(predictor(image).poses[0, 1], [80, 0, 0.75])
    assert predictor(image, boxes=[]).persons() == []
    crowd = predictor(image, boxes=[[n, 0, 5, 5] for n in range(40)]).poses
    np.testing.assert_array_equal(crowd[:, 0, 0], np.arange(40))
    with pytest.raises(UserError, match="boxes must overlap"):
        predictor(image, boxes=[[90, 0, 5, 5]])
    with pytest.raises(UserError, match=r"of a segmentation task; got .*model\.onnx, of a pose"):
        ExportedPredictor(predictor.program)


@NEEDS_ONNX
def test_class_programs(tmp_path):
    write_class_program(tmp_path / "model.onnx")
    predictor = ExportedClassPredictor.load(tmp_path / "model.onnx")
    image = np.full((6, 8, 3), [64, 128, 0], np.uint8)
    prediction = predictor(image)
    scores = np.exp([1, 2, 0])
    np.testing.assert_allclose(prediction.probabilities, scores / scores.sum(), rtol=1e-5)
    assert [name for name, _ in prediction.top()] == ["green", "red", "blue"]
    assert prediction.overlay().shape[1:] == (8, 3)
    with pytest.raises(UserError, match=r"of a pose task; got .*, of a classification task"):
        ExportedPosePredictor(predictor.program)


def test_programs_are_found_by_file_and_folder(tmp_path, monkeypatch):
    assert find_program(tmp_path) is None
    assert find_program(tmp_path / "a.onnx") == tmp_path / "a.onnx"
    for name in ("model.json", "model.jax", "model.int8.onnx"):
        (tmp_path / name).touch()
    assert find_program(tmp_path) == tmp_path / "model.int8.onnx"
    (tmp_path / "model.onnx").touch()
    assert find_program(tmp_path) == tmp_path / "model.onnx"
    assert find_program(tmp_path, "jax") == tmp_path / "model.jax"
    for name in ("run.onnx", "run.jax"):
        (tmp_path / name).mkdir()
        assert find_program(tmp_path / name) is None
        with pytest.raises(UserError, match=rf"{name} is a folder"):
            load_program(tmp_path / name)
    (tmp_path / "run.jax" / "model.json").touch()
    (tmp_path / "run.jax" / "model.onnx").touch()
    assert find_program(tmp_path / "run.jax") == tmp_path / "run.jax" / "model.onnx"
    monkeypatch.setattr("gsto_jax.predict.programs.find_spec", lambda name: name == "jax")
    assert find_program(tmp_path) == tmp_path / "model.jax"
    with pytest.raises(UserError, match=r"model\.onnx needs onnxruntime: run pip install"):
        load_program(tmp_path / "model.onnx")


@NEEDS_ONNX
def test_invalid_programs(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(UserError, match=r"model\.onnx does not exist"):
        load_program(path)
    with pytest.raises(UserError, match=r"must be a file \.onnx or \.jax; got .*model\.pth"):
        load_program(tmp_path / "model.pth")
    path.write_bytes(b"onnx")
    with pytest.raises(UserError, match=r"model\.onnx cannot be loaded by onnxruntime"):
        load_program(path)
    (tmp_path / "model.jax").write_bytes(b"jax")
    with pytest.raises(UserError, match=r"model\.jax cannot be loaded by jax"):
        load_program(tmp_path / "model.jax")
    write_program(path)
    with pytest.raises(UserError, match=r"model\.json must describe the program"):
        load_program(path)
    (tmp_path / "model.json").write_text(json.dumps(describe()))
    assert load_program(path).task_name == "segmentation"
    for damage in ({"task": "flow"}, {"settings": 3}, {"decode_options": {"alpha": "red"}}):
        write_program(path, describe(**damage))
        with pytest.raises(UserError, match=r"model\.onnx must describe the program"):
            load_program(path)
    write_program(path, describe(onnx_size=[16, 24]), size=(16, 24))
    predictor = ExportedPredictor.load(path)
    assert predictor(blocks()[0]).labels.shape == (16, 24)
    with pytest.raises(UserError, match=r"takes images of 16x24; got 24x16"):
        predictor(blocks((3, 2))[0])


@NEEDS_ONNX
def test_programs_of_another_origin(tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    write_program(path, describe())
    original = onnx.load(path)

    def load_changed(change):
        model = onnx.ModelProto()
        model.CopyFrom(original)
        change(model.graph)
        onnx.save(model, path)
        return load_program(path)

    def take_floats(graph):
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT

    def drop_logits(graph):
        del graph.output[1]

    def unknown_operator(graph):
        graph.node[2].op_type = "Convolve"

    for change, message in (
        (take_floats, "must map image uint8 to labels, logits; got image float32 to"),
        (drop_logits, "to labels, logits; got image uint8 to labels. Export it again"),
        (unknown_operator, "model.onnx cannot be loaded by onnxruntime .*Convolve"),
    ):
        with pytest.raises(UserError, match=message):
            load_changed(change)


def test_errors_of_programs_of_jax(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(describe()))
    path = tmp_path / "model.jax"
    image = np.zeros((1, 4, 4, 3), np.uint8)

    def load(*names, dtype=np.uint8, platform="cpu"):
        function = jax.jit(lambda x: dict.fromkeys(names, x))
        spec = jax.ShapeDtypeStruct(image.shape, dtype)
        exported = jax.export.export(function, platforms=(platform,))(spec)
        path.write_bytes(exported.serialize())
        return load_program(path)

    program = load("labels", "logits")
    np.testing.assert_array_equal(program.call({"image": image})["labels"], image)
    with pytest.raises(ProgramError, match=r"model\.jax fails in jax .*\(1, 4, 5, 3\)"):
        program.call({"image": np.zeros((1, 4, 5, 3), np.uint8)})
    with pytest.raises(ProgramError, match=r"model\.jax fails in jax .*cuda"):
        load("labels", "logits", platform="cuda").call({"image": image})
    for names, dtype in ((("labels",), np.uint8), (("labels", "logits"), np.float32)):
        with pytest.raises(UserError, match=r"model\.jax.* must map uint8 to labels, logits; got"):
            load(*names, dtype=dtype)
