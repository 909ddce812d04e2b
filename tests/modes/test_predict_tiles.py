"""`--mode=predict` in tiles, with unsure pixels, in ONNX Runtime, and with conflicting flags."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from gsto_jax import UserError
from gsto_jax.predict import row_readers
from gsto_jax.predict.exported import ExportedPredictor
from modes import input_predictors, predict, predict_checkpoint
from tests.gsto_jax.exported_programs import describe, write_program
from tests.gsto_jax.small_network import image_of, make_predictor

SIZES = {"wide": (40, 150), "small": (20, 30), "square": (64, 64)}


def arguments(tmp_path, **flags):
    defaults = dict.fromkeys(
        ("boxes", "long_side", "save", "unsure_below", "tile", "tile_overlap"), None
    )
    names = {
        "checkpoint": "run",
        "output": str(tmp_path / "out"),
        "legend": False,
        "runtime": "auto",
    }
    return SimpleNamespace(**defaults | names | {"inputs": [str(tmp_path / "in")]} | flags)


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """The checkpoint is a network of one convolution."""
    predictor = make_predictor(data={"crop": (32, 32)})
    monkeypatch.setattr(predict_checkpoint, "load_trained", lambda checkpoint: predictor.trained)
    monkeypatch.setattr(predict_checkpoint, "use_compilation_cache", lambda folder: None)
    return predictor


@pytest.fixture
def images(tmp_path):
    (tmp_path / "in").mkdir()
    for name, size in SIZES.items():
        Image.fromarray(image_of(size)).save(tmp_path / f"in/{name}.png")


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_a_folder_of_mixed_sizes_in_tiles(tmp_path, images, network, capsys):
    (tmp_path / "in/damaged.png").write_bytes((tmp_path / "in/wide.png").read_bytes()[:99])
    args = arguments(tmp_path, tile=64, unsure_below=0.5, save=["ids", "color", "overlay"])
    with pytest.raises(SystemExit) as caught:
        predict.run(args)
    assert caught.value.code == 1
    output = capsys.readouterr()
    assert "damaged.png" in output.err and "3 of 4 predicted" in output.out
    options = {"unsure_below": 0.5, "tile": 64}
    predictor = make_predictor(data={"crop": (32, 32)}, options=options)
    counts = {}
    for name, size in SIZES.items():
        labels = read(tmp_path / f"out/ids/{name}.png")
        np.testing.assert_array_equal(labels, predictor(image_of(size)).labels)
        counts[name] = (labels == 255).sum(), labels.size
        assert read(tmp_path / f"out/overlay/{name}.jpg").shape == (*size, 3)
    unsure, total = np.sum([*counts.values()], axis=0)
    worst = max(counts, key=lambda name: counts[name][0] / counts[name][1])
    assert f"unsure      {unsure / total:.1%} of pixels" in output.out
    assert f"{worst}.png, {counts[worst][0] / counts[worst][1]:.1%}" in output.out


def test_images_beyond_the_limit_are_tiled(tmp_path, images, monkeypatch, capsys):
    """Others are downscaled as before."""
    for module in (predict_checkpoint, row_readers):
        monkeypatch.setattr(module, "MAX_PIXELS", 5000)
    predict.run(arguments(tmp_path, save=["ids"]))
    assert "note: 1 images of more than 0 million pixels" in capsys.readouterr().out
    tiled = make_predictor(data={"crop": (32, 32)}, options={"tile": 64})
    whole = make_predictor(long_side=64, data={"crop": (32, 32)})
    for name, predictor in (("wide", tiled), ("small", whole)):
        expected = predictor(image_of(SIZES[name])).labels
        np.testing.assert_array_equal(read(tmp_path / f"out/ids/{name}.png"), expected)
    with pytest.raises(SystemExit):
        predict.run(arguments(tmp_path, save=["branches"]))
    assert "wide.png is predicted in tiles, without --save=branches" in capsys.readouterr().err


def test_georeferences_without_rasterio(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    tags = {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 4e5, 5.8e6, 0.0)}
    Image.fromarray(image_of((20, 30))).save(tmp_path / "in/geo.tif", tiffinfo=tags)
    monkeypatch.setattr(input_predictors, "has_rasterio", lambda: False)
    predict.run(arguments(tmp_path, save=["ids"]))
    assert "pip install 'gsto-jax[geo]'" in capsys.readouterr().out
    assert read(tmp_path / "out/ids/geo.png").shape == (20, 30)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tile": 64, "long_side": 100}, "--long_side and --tile"),
        ({"tile": 64, "save": ["gates"]}, "--save=.*--tile|no gates"),
        ({"tile": 64, "save": ["branches"]}, "--save=.*--tile"),
        ({"unsure_below": 2.0}, "unsure_below must be"),
        ({"tile": 64, "tile_overlap": 0.7}, "tile_overlap must be"),
        ({"save": ["labels"]}, "save must be some of .*probabilities.*; got labels"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, images, flags, message):
    with pytest.raises(UserError, match=message):
        predict.run(arguments(tmp_path, **flags))


@pytest.mark.parametrize("flag", ["tile", "tile_overlap", "unsure_below", "long_side"])
def test_pose_networks_refuse_flags_of_labels(tmp_path, network, flag):
    args = arguments(tmp_path, **{flag: 0.5})
    with pytest.raises(UserError, match=f"--{flag} is for segmentation checkpoints"):
        predict_checkpoint.pose_inputs(network.trained, args, [], ["overlay"])


@pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime"))), reason="the extra onnx is not installed"
)
def test_a_run_in_onnx_runtime(tmp_path, images, network, monkeypatch, capsys):
    """The network is exported first."""

    def export(predictor, folder, formats):
        assert (predictor.long_side, formats) == (70, ("onnx",))
        write_program(Path(folder) / "model.onnx", describe())

    monkeypatch.setattr(predict_checkpoint, "export", export)
    args = arguments(tmp_path, runtime="onnx", save=["ids"], long_side=70)
    predict.run(args)
    assert predict_checkpoint.export_program(network.trained, args).remedy == "Use --runtime=jax"
    assert "checkpoint  run/7" in capsys.readouterr().out
    write_program(tmp_path / "model.onnx", describe())
    predictor = ExportedPredictor.load(tmp_path / "model.onnx")
    expected = predictor(image_of(SIZES["wide"])).labels
    np.testing.assert_array_equal(read(tmp_path / "out/ids/wide.png"), expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tile": 64}, "--tile needs --runtime=jax"),
        ({"save": ["branches"]}, "--save=branches needs --runtime=jax"),
        ({"config.eval.flip": True}, "--runtime=onnx computes one pass at scale 1"),
    ],
)
def test_what_onnx_runtime_lacks_is_refused(tmp_path, images, flags, message):
    with pytest.raises(UserError, match=message):
        predict.run(arguments(tmp_path, runtime="onnx", **flags))
