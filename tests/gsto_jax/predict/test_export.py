"""Exported models equal their checkpoint, in processes without this package."""

import errno
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import jax
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.predict import export as exporting
from gsto_jax.predict import verify as verifying
from gsto_jax.predict.export import PLATFORMS, export
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import make_program
from gsto_jax.predict.verify import random_batches, verify
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.task import initial_state
from tests.gsto_jax.onnx_labels import label_agreement
from tests.gsto_jax.small_task import FAST, GATED, make_task, values

ROOT = Path(__file__).parents[3]
SIZES = [(1, 40, 56), (3, 37, 51)]
SPREAD = {"mean": 0.1, "bias": 0.1, "var": 0.2, "scale": 0.2}


def make_predictor(run, channels=3, **model):
    """Builds a predictor with random parameters, whose logits vary between pixels."""
    config, rng = values(init="he", **model), np.random.default_rng(0)
    if channels != 3:
        config["data"] |= {"channels": channels, "mean": [0.4] * channels, "std": [0.2] * channels}
    task, mesh = task_from_config(config), make_mesh(jax.devices()[:1])

    def moved(path, x):
        noise = rng.standard_normal(x.shape).clip(-2, 2).astype(x.dtype)
        return x + SPREAD.get(path[-1].key, 0) * noise

    start = initial_state(task, mesh)
    parts = {
        name: jax.tree_util.tree_map_with_path(moved, getattr(start, name))
        for name in ("params", "batch_stats")
    }
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(replace(start, step=np.int32(7), **parts), {"config": config, "data": {}})
    return Predictor.load(run)


def make_export(folder, **model):
    """Returns a predictor and the folder of its export."""
    predictor = make_predictor(folder / "run", **model)
    files = export(predictor, folder / "out", ("jax",))
    assert [path.name for path in files] == ["model.jax", "model.json"]
    return predictor, folder / "out"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Returns the predictor of a GSTO network and the folder of its export."""
    return make_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def small_export(tmp_path_factory):
    """Returns the same of a network that traces faster."""
    return make_export(tmp_path_factory.mktemp("small_export"), **FAST)


def inputs_of(*shapes, channels=3):
    return [{"image": batch} for batch in random_batches(shapes, channels)]


def assert_equal(checks, file, sizes):
    assert [(check.file, check.shape) for check in checks] == [(file, size) for size in sizes]
    for check in checks:
        assert check.agreement >= 0.999
        assert 0 <= check.error < 1e-3


@pytest.mark.slow
def test_jax_model_equals_the_checkpoint(exported):
    predictor, folder = exported
    batches = inputs_of(*SIZES)
    assert len(np.unique(predictor(batches[0]["image"][0]).labels)) > 2, "shows nothing"
    assert_equal(verify(predictor, folder, batches), "model.jax", SIZES)


def test_description(small_export):
    predictor, folder = small_export
    content = (folder / "model.jax").read_bytes()
    actual = jax.export.deserialize(bytearray(content))
    assert actual.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
    assert [(str(x.dtype), str(x.shape)) for x in actual.in_avals] == [("uint8", "(b, h, w, 3)")]
    assert [str(x.dtype) for x in actual.out_avals] == ["uint8", "float32"]
    described = json.loads((folder / "model.json").read_text())
    assert described["files"] == {
        "model.jax": {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    }
    assert (described["checkpoint"], described["step"]) == (str(predictor.checkpoint), 7)
    assert described["classes"] == list(predictor.classes)
    rule = {"alpha": "white", "orientation": "upright", "bit_depth": 0, "value_range": [0, 0]}
    assert described["decode_options"] == rule | {"channels": 3}
    assert described["settings"] == predictor.config
    assert described["outputs"]["logits"]["shape"][-1] == len(predictor.classes)


@pytest.mark.long
def test_baseline_at_one_row_per_branch(tmp_path):
    plain = {"gfm": False, "gtm": ("none",) * 3}
    predictor = make_predictor(tmp_path / "run", align_corners=True, **plain)
    export(predictor, tmp_path, ("jax",))
    size = (1, 29, 70)
    assert_equal(verify(predictor, tmp_path, inputs_of(size)), "model.jax", [size])


@pytest.mark.parametrize("changes", [{"upsample": "nearest"}, {"align_corners": True}])
def test_every_network_variant_exports(small_export, changes):
    """Traces without running; test_resize has the values."""
    gates = {
        "gtm": ("none", "unsupervised", "supervised"),
        "gtm_style": "paper",
        "gfm_style": "paper",
    }
    trained = small_export[0].trained
    task = replace(trained.task, config=make_task(1, **gates, **changes).config)
    variables = initial_state(task, trained.mesh).variables
    trained = replace(trained, task=task, variables=variables)
    run = make_program(replace(small_export[0], trained=trained))
    spec = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, h, w, 3"), np.uint8)
    actual = jax.eval_shape(run, spec)
    assert str(actual["labels"].shape) == "(b, h, w)"


NEEDS_ONNX = pytest.mark.skipif(
    not all(map(find_spec, ("jax2onnx", "onnx", "onnxruntime"))),
    reason="the extra onnx is not installed (jax2onnx, onnx, onnxruntime)",
)


@pytest.mark.long
@NEEDS_ONNX
def test_models_with_ocr_equal_the_checkpoint(tmp_path):
    sizes = {"head": "ocr", "ocr_features": 16, "ocr_key_features": 8}
    predictor = make_predictor(tmp_path / "run", **sizes)
    export(predictor, tmp_path / "out", ("jax", "onnx"))
    checks = verify(predictor, tmp_path / "out", inputs_of(*SIZES))
    assert {check.file for check in checks} == {"model.jax", "model.onnx"}
    for file in ("model.jax", "model.onnx"):
        assert_equal([check for check in checks if check.file == file], file, SIZES)


@pytest.mark.slow
@NEEDS_ONNX
@pytest.mark.parametrize("channels", [1, pytest.param(5, marks=pytest.mark.long)])
def test_onnx_models_of_context_modules_and_other_channels_equal_the_checkpoint(channels, tmp_path):
    predictor = make_predictor(tmp_path / "run", channels, **GATED)
    export(predictor, tmp_path / "out", ("onnx",))
    checks = verify(predictor, tmp_path / "out", inputs_of(*SIZES, channels=channels))
    assert_equal(checks, "model.onnx", SIZES)
    import onnx

    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    (graph_input,) = graph.input
    assert graph_input.type.tensor_type.shape.dim[3].dim_value == channels
    assert [x.op_type for x in graph.node].count("MaxPool") == 1


@pytest.mark.slow
@NEEDS_ONNX
def test_onnx_model_equals_the_checkpoint(exported, tmp_path):
    predictor, _ = exported
    export(predictor, tmp_path, ("onnx",))
    assert_equal(verify(predictor, tmp_path, inputs_of(*SIZES)), "model.onnx", SIZES)
    import onnx

    model = onnx.load(tmp_path / "model.onnx")
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Resize"] and kinds["If"] == 2
    assert not kinds.keys() & {"MatMul", "Gemm", "Where", "BatchNormalization", "Einsum"}
    properties = {p.key: p.value for p in model.metadata_props}
    described = json.loads((tmp_path / "model.json").read_text())
    del described["files"]
    assert json.loads(properties["description"]) == described
    assert (described["task"], described["step"]) == ("segmentation", 7)


@pytest.mark.slow
@NEEDS_ONNX
def test_onnx_labels_equal_the_predictor():
    """For all kinds of preprocessing, with a one-layer network."""
    cases = [
        (80, {}),
        (80, {"pad": "mean"}),
        (0, {"pad": "black", "pad_to": 4}),
        (80, {"pad_to": "published"}),
        (80, {"data": {"base_size": 90}}),
        (80, {"data": {"fixed_size": (45, 53)}, "score": "softmax"}),
        (80, {}, (97, 129)),
    ]
    # In a subprocess, since jax2onnx patches JAX.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for case in cases:
            assert min(pool.submit(label_agreement, *case).result()) >= 0.999, case


@pytest.mark.parametrize(
    "outputs",
    [
        {"labels": np.ones((1, 9, 9), np.uint8), "logits": np.ones((1, 3, 3, 2))},
        {"labels": np.zeros((1, 9, 9), np.uint8), "logits": np.full((1, 3, 3, 2), 1.002)},
        {"labels": np.zeros((1, 9, 9), np.uint8), "logits": np.full((1, 3, 3, 2), np.nan)},
    ],
)
def test_verify_rejects_differences(small_export, monkeypatch, outputs):
    expected = {"labels": np.zeros((1, 9, 9), np.uint8), "logits": np.ones((1, 3, 3, 2))}
    batches = inputs_of((1, 9, 9))
    monkeypatch.setattr(verifying, "_predict", lambda *_: [expected])
    monkeypatch.setattr(verifying, "_run_in_subprocess", lambda *_: [expected])
    assert_equal(verify(*small_export, batches), "model.jax", [(1, 9, 9)])
    monkeypatch.setattr(verifying, "_run_in_subprocess", lambda *_: [outputs])
    with pytest.raises(UserError, match=r"differs from its checkpoint: model\.jax: 1 of 9x9"):
        verify(*small_export, batches)


def test_invalid_exports(small_export, tmp_path, monkeypatch):
    predictor, folder = small_export

    def changed(**fields):
        task = replace(predictor.trained.task, **fields)
        return replace(predictor, trained=replace(predictor.trained, task=task))

    config = make_task(1, variant="mini").config
    hrnet = changed(config=config)
    with pytest.raises(UserError, match=r"formats must be some of onnx, .*jax.*got tflite"):
        export(predictor, tmp_path, ("tflite",))
    with pytest.raises(UserError, match="onnx-int8 needs calibration images"):
        export(hrnet, tmp_path, ("onnx-int8",))
    with pytest.raises(UserError, match=r"size must be .*got \(0, 5\)"):
        export(predictor, tmp_path, ("jax",), (0, 5))

    with pytest.raises(UserError, match=r"at most 256 classes.*300"):
        export(changed(num_classes=300), tmp_path, ("jax",))
    half = replace(config, model=replace(config.model, dtype="bfloat16"))
    with pytest.raises(UserError, match=r"model\.dtype .*got bfloat16"):
        export(changed(config=half), tmp_path)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(UserError, match=r"missing packages \(onnx\)"):
        export(hrnet, tmp_path)
    with pytest.raises(UserError, match="must be an export"):
        verify(predictor, tmp_path)
    damaged = tmp_path / "model.json"
    wrong = (
        {"onnx_size": None, "files": ["x"]},
        {"onnx_size": None, "files": []},
        {"onnx_size": 1, "files": ["model.onnx"]},
        {"onnx_size": [4], "files": ["model.onnx"]},
        {"onnx_size": [-4, 4], "files": ["model.onnx"]},
    )
    lines = (json.dumps({"checkpoint": str(predictor.checkpoint)} | x) for x in wrong)
    for text in ("[", "[]", "{}", "[" * 200_000, *lines):
        damaged.write_text(text)
        with pytest.raises(UserError, match="must be an export"):
            verify(predictor, tmp_path)
    damaged.unlink()
    with pytest.raises(UserError, match=r"must be an export of .*; got one of .*/7"):
        verify(replace(predictor, trained=replace(predictor.trained, path=tmp_path)), folder)
    assert list(tmp_path.iterdir()) == []


@NEEDS_ONNX
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("onnx", RuntimeError("bad\nrange"), r"\(bad range\): install the packages"),
        ("onnx-float16", RuntimeError("bad"), "install the packages"),
        ("onnx-int8", RuntimeError("bad"), "calibration images"),
        ("onnx", BrokenProcessPool("terminated abruptly"), "memory.* fixed size"),
        ("onnx-int8", FileNotFoundError(2, "No usable temporary directory"), "TMPDIR"),
    ],
)
def test_converters_that_fail(small_export, tmp_path, monkeypatch, name, error, message):
    predictor, _ = small_export

    def fail(*_):
        raise error

    function = {"onnx": "onnx_bytes", "onnx-float16": "to_float16", "onnx-int8": "to_int8"}[name]
    monkeypatch.setattr(exporting, "onnx_bytes", lambda *_: b"model")
    monkeypatch.setattr(exporting, function, fail)
    images = [np.zeros((4, 5, 3), np.uint8)]
    with pytest.raises(UserError, match=rf"^formats: {name} of .*/7 fails .*{message}"):
        export(predictor, tmp_path / "out", ("onnx", name), calibration=images)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_disk_errors_of_converters_stay_disk_errors(code):
    with pytest.raises(OSError) as raised, exporting._converter_errors("onnx", Path("7")):
        raise OSError(code, "no writing", "/temporary/1.onnx")
    assert raised.value.errno == code


def test_exports_are_replaced_atomically(tmp_path, monkeypatch):
    former = {"model.jax": b"1", "model.onnx": b"2", "model.json": b"{}"}
    exporting._write(tmp_path / "a", former)
    (tmp_path / "a" / "notes.txt").write_text("mine")

    def content():
        return {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    with monkeypatch.context() as failing:
        failing.setattr(Path, "write_bytes", disk_full)
        with pytest.raises(OSError, match="No space left"):  # the command line says so
            exporting._write(tmp_path / "a", {"model.jax": b"3", "model.json": b"[]"})
    assert content() == former | {"notes.txt": b"mine"}
    exporting._write(tmp_path / "a", {"model.jax": b"3", "model.json": b"[]"})
    assert content() == {"model.jax": b"3", "model.json": b"[]", "notes.txt": b"mine"}


def disk_full(path, content):
    raise OSError(28, "No space left on device")
