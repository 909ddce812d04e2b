"""Results, weights, plans and predictions in a bucket: the same files as on a disk."""

import contextlib
import re
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_pipelines import DataError
from gsto_jax import UserError
from gsto_jax.evaluation.folder import read_eval_record
from gsto_jax.files import make_folder
from gsto_jax.plan.plan_file import planned_seconds, write_plan
from gsto_jax.pose.metrics import write_coco_results
from gsto_jax.predict.inputs import find_inputs
from gsto_jax.report import write_report
from gsto_jax.runs.workdir import Workdir
from gsto_jax.segmentation.submission import SubmissionWriter
from gsto_jax.storage import file_size, local_copy, to_path, walk_objects
from gsto_jax.weights.files import read_state_dict, read_weight_file, write_safetensors
from modes import export, person_boxes, predict, predict_checkpoint, prepare
from tests.gsto_jax.report_runs import config, evaluate
from tests.gsto_jax.small_network import image_of, make_predictor


@pytest.fixture
def remote(bucket):
    """Folder in a bucket."""
    return to_path(bucket, "--workdir")


def local_files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in files.items() if not name.startswith(".")}


def remote_files(folder):
    return {name: (folder / name).read_bytes() for name in walk_objects(folder)}


def test_evaluations_and_reports(tmp_path, remote):
    for folder in (tmp_path / "run", remote / "run"):
        with contextlib.closing(Workdir(folder)) as workdir:
            workdir.write_config(config())
        evaluate(folder, names=("town/a", "c", "d"), panels=2, figures=1)
        evaluate(folder, names=("town/a", "c"), panels=1, figures=1)  # fewer files than before
    expected, actual = local_files(tmp_path / "run/eval-val"), remote_files(remote / "run/eval-val")
    assert {"town/a.png", "evaluation.json", "images.csv", "confusion.csv"} < actual.keys()
    assert actual == expected
    pages = [write_report(tmp_path / "run"), write_report(str(remote / "run"))]
    assert str(pages[1]) == f"{remote}/run/report.html"
    texts = [page.read_bytes().decode() for page in pages]
    assert texts[1].replace(str(remote), "") == texts[0].replace(str(tmp_path), "")
    assert "data:image" in texts[1]
    with pytest.raises(UserError, match=f"{remote}/none is not the folder of a run"):
        write_report(remote / "none")
    assert read_eval_record(remote / "none") is None


def test_submissions(remote):
    batch = {"size": np.array([[4, 5]]), "index": np.array([0]), "mask": np.array([True])}
    with SubmissionWriter(remote / "s.zip", np.zeros(256, np.uint8), ["ulm/a"]) as writer:
        writer.write(batch, np.zeros((1, 4, 5), np.uint8), None)
        assert not (remote / "s.zip").exists()
    write_coco_results(remote / "poses/k.zip", [{"image_id": 1}])
    for name, member in (("s.zip", "a_pred.png"), ("poses/k.zip", "k.json")):
        with (
            local_copy(remote / name) as path,
            zipfile.ZipFile(path) as archive,
        ):
            assert archive.namelist() == [member]
            assert file_size(remote / name) == path.stat().st_size


def test_plans(remote):
    write_plan(remote / "plans/a.json", {"x": 1})
    assert (remote / "plans/a.json").read_text().startswith('{\n  "x": 1')
    with pytest.raises(UserError, match=rf"{remote}/none\.json cannot be read \(No such file"):
        planned_seconds(remote / "none.json", {}, None)


def test_weights(tmp_path, remote):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(4, np.float32)}
    write_safetensors(tmp_path / "w.safetensors", arrays)
    data = (tmp_path / "w.safetensors").read_bytes()
    (remote / "one/w.safetensors").write_bytes(data)
    for url in (f"{remote}/one/w.safetensors", f"{remote}/one"):
        file = read_weight_file(url)
        assert [str(path) for path in file.files] == [f"{remote}/one/w.safetensors"]
        for key, array in arrays.items():
            np.testing.assert_array_equal(file.arrays[key], array)
    index = '{"weight_map": {"a": "w.safetensors", "b": "w.safetensors"}}'
    (remote / "one/w.safetensors.index.json").write_text(index)
    assert read_state_dict(f"{remote}/one").keys() == arrays.keys()
    (remote / "half.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"^{remote}/half\.safetensors is not a safetensors file"):
        read_weight_file(f"{remote}/half.safetensors")
    with pytest.raises(UserError, match=rf"{remote}/none\.pth: the file does not exist"):
        read_weight_file(f"{remote}/none.pth")


@pytest.fixture
def predict_files(monkeypatch):
    """Returns a function that predicts with a network of one convolution."""
    trained = make_predictor(data={"crop": (32, 32)}).trained
    monkeypatch.setattr(predict_checkpoint, "load_trained", lambda checkpoint: trained)
    monkeypatch.setattr(predict_checkpoint, "use_compilation_cache", lambda folder: None)
    names = ("boxes", "long_side", "save", "tile", "tile_overlap", "unsure_below")
    unset = dict.fromkeys(names) | {"checkpoint": "run", "legend": False, "runtime": "auto"}

    def run(inputs, output, **flags):
        predict.run(SimpleNamespace(**unset | {"inputs": inputs, "output": output} | flags))

    return run


def test_predictions(tmp_path, remote, predict_files, capsys):
    for name, size in (("a", (20, 30)), ("b/c", (40, 90))):
        path = tmp_path / "in" / f"{name}.png"
        make_folder(path.parent)
        Image.fromarray(image_of(size)).save(path)
        (remote / f"in/{name}.png").write_bytes(path.read_bytes())
    (remote / "in/notes.pdf").write_bytes(b"")
    save = ["ids", "overlay", "probabilities"]
    predict_files([str(tmp_path / "in")], str(tmp_path / "out"), save=save)
    capsys.readouterr()
    predict_files([f"{remote}/in"], f"{remote}/out", save=save)
    assert "skipping 1 files" in (output := capsys.readouterr().out)
    assert f"predictions {remote}/out" in output
    expected = local_files(tmp_path / "out")
    assert {"ids/a.png", "ids/b/c.png", "probabilities/a.npy", "classes.csv"} < expected.keys()
    assert remote_files(remote / "out") == expected
    predict_files([f"{remote}/in/b/c.png"], f"{remote}/tiled", save=["ids"], tile=32)
    assert "ids/c.png" in remote_files(remote / "tiled")
    (remote / "out/classes.csv").write_text("other")
    with pytest.raises(UserError, match=f"{remote}/out has predictions of other classes"):
        predict_files([f"{remote}/in"], f"{remote}/out", save=["ids"])


def test_calibration_images(remote):
    predictor = make_predictor(data={"crop": (32, 32)})
    for size in ((20, 30), (40, 90)):
        path = remote / f"in/{size[0]}.png"
        with path.open("wb") as file:
            Image.fromarray(image_of(size)).save(file, "png")
    images = export.read_calibration(predictor, f"{remote}/in", remote / "out")
    assert [image.shape for image in images] == [(20, 30, 3), (40, 90, 3)]
    np.testing.assert_array_equal(images[1], image_of((40, 90)))


def test_wrong_inputs_of_predictions(tmp_path, remote):
    with pytest.raises(UserError, match=rf"no such file or folder: {remote}/none\.png"):
        find_inputs([f"{remote}/none.png"], tmp_path)
    with pytest.raises(UserError, match=re.escape(f"must be a file or a folder; got '{remote}/*'")):
        find_inputs([f"{remote}/*"], tmp_path)
    with pytest.raises(UserError, match=rf"cannot read --boxes={remote}/boxes\.json: No such file"):
        person_boxes.read_boxes(f"{remote}/boxes.json", [], print)


def test_prepare_refuses_buckets(remote):
    from configs import loading

    values = loading.load("configs/cityscapes_w18s.py")
    values.data.root = f"{remote}/data"
    with pytest.raises(DataError, match=f"gcloud storage cp -r .* {remote}/data"):
        prepare.run(SimpleNamespace(config=values, source="downloads"))
