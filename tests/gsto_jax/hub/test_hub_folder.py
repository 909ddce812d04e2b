"""Hub folders, runs and weight files: read back as they were written."""

import json
import warnings

import jax
import numpy as np
import pytest

from gsto_jax import UserError, create_model
from gsto_jax.hub.folder import write_hub_folder
from gsto_jax.hub.origin import Origin, find_origin, find_scores
from gsto_jax.runs.initialization import load_initial_weights
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import load_trained
from gsto_jax.weights import GSTO_FORMAT, export_weights, import_weights
from tests.gsto_jax.pose_runs import pose_values
from tests.gsto_jax.saved_runs import save
from tests.gsto_jax.small_task import values

SCORES = {"step": 0, "split": "val", "images": 4, "protocol": "scale 1", "mean_iou": 0.625}


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    """A run with an evaluation, and its hub folder."""
    root = tmp_path_factory.mktemp("hub")
    plain = values(variant="mini", gfm_style="paper", gtm=["none", "none", "supervised"])
    save(root / "run", plain)
    (root / "run/evaluations.jsonl").write_text(
        "".join(json.dumps(SCORES | changes) + "\n" for changes in ({"mean_iou": 0.5}, {}))
    )
    trained = load_trained(root / "run")
    folder = root / "out" / "hub"
    write_hub_folder(folder, trained, Origin("mit"), find_scores(trained.path))
    return trained, root / "run", folder


@pytest.fixture(scope="module")
def pose(tmp_path_factory):
    """A pose run and its hub folder."""
    root = tmp_path_factory.mktemp("pose")
    save(root / "run", pose_values())
    trained = load_trained(root / "run")
    write_hub_folder(root / "hub", trained, Origin(), None)
    return trained, root / "hub"


def assert_equal(variables, trained):
    jax.tree.map(np.testing.assert_array_equal, variables, jax.device_get(trained.variables))


def test_a_folder_gives_the_same_logits_bit_for_bit(segmentation):
    trained, _, folder = segmentation
    model, variables = create_model(weights=folder)
    assert model.gsto == trained.task.model.gsto
    assert_equal(variables, trained)
    image = np.random.default_rng(0).random((1, 37, 51, 3), np.float32)
    logits = jax.jit(lambda v: model.apply(v, image).logits)(variables)
    expected = jax.jit(lambda v: trained.task.model.apply(v, image).logits)(trained.variables)
    np.testing.assert_array_equal(logits, expected)


def test_a_run_and_the_name_of_its_network_give_its_variables(segmentation):
    trained, run, folder = segmentation
    for weights in (run, trained.path):
        model, variables = create_model("gsto_hrnet_mini", weights=weights)
        assert model.gsto == trained.task.model.gsto
        assert_equal(variables, trained)
    with pytest.raises(UserError, match="prefix"):
        create_model(weights=folder, prefix="model.")


def test_pose_networks_are_written_too(pose):
    trained, folder = pose
    model, variables = create_model(weights=folder)
    assert model.num_classes == 17
    assert_equal(variables, trained)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "gsto_hrnet_pose_mini"
    assert config["id2label"]["0"] == "nose" and config["flip_pairs"][0] == [1, 2]
    size = json.loads((folder / "preprocessor_config.json").read_text())["size"]
    assert size == {"height": 64, "width": 48}
    assert "has not been evaluated" in (folder / "README.md").read_text()


def test_another_number_of_classes_starts_the_heads_fresh(segmentation):
    trained, _, folder = segmentation
    with pytest.warns(UserWarning, match="classes in the checkpoint, 5 here"):
        _, variables = create_model(weights=folder, num_classes=5)
    old = jax.device_get(trained.variables)
    assert variables["params"]["head"]["classifier"]["bias"].shape == (5,)
    np.testing.assert_array_equal(
        variables["params"]["stem1"]["conv"]["kernel"], old["params"]["stem1"]["conv"]["kernel"]
    )
    with warnings.catch_warnings(), pytest.raises(UserError, match="same body as hrnetv2_w18"):
        create_model("hrnetv2_w18_small_v2", weights=folder)


def test_a_folder_or_its_file_starts_runs(segmentation):
    trained, _, folder = segmentation
    zeros = jax.tree.map(np.zeros_like, jax.device_get(trained.variables))
    for path in (folder, folder / "model.safetensors"):
        imported = import_weights(path, zeros)
        assert (imported.record["format"], imported.unused) == ("gsto_jax", {})
        assert_equal(imported.variables, trained)
    with pytest.raises(UserError, match=r"init_prefix .*'model\.'"):
        import_weights(folder, zeros, prefix="model.")
    _, fewer = create_model("gsto_hrnet_mini", 5, gtm=("none", "none", "supervised"))
    imported = import_weights(folder, fewer)
    assert any("5 here" in group for group in imported.result.initialized)
    np.testing.assert_array_equal(
        imported.variables["params"]["stem1"]["conv"]["kernel"],
        trained.variables["params"]["stem1"]["conv"]["kernel"],
    )
    kernel = imported.variables["params"]["head"]["classifier"]["kernel"]
    np.testing.assert_array_equal(kernel, fewer["params"]["head"]["classifier"]["kernel"])
    _, plain = create_model("hrnetv2_w18_small_v2", 5)
    with pytest.raises(UserError, match=str(folder)):
        import_weights(folder, plain)


def load(path, plain, model=None, **changes):
    """Returns what a run of a config starts with, with `config.init_from=path`."""
    config = {**plain, "init_from": str(path), **changes}
    config["model"] = {**plain["model"], **(model or {})}
    task = task_from_config(config)
    return load_initial_weights(task, config, task.initial_variables(), print)


def test_a_run_from_a_folder_reports_what_differs(segmentation, tmp_path):
    trained, _, folder = segmentation
    for path in (folder, folder / "model.safetensors"):
        weights = load(path, trained.config)
        assert_equal(weights.variables, trained)
        assert weights.record["notes"] == [] and weights.record["initialized"] == {}
        assert weights.record["path"] == str(folder) and len(weights.record["sha256"]) == 64
        assert weights.record["license"] == "mit"
    weights = load(folder, trained.config, {"align_corners": True})
    (note,) = weights.record["notes"]
    assert note.startswith("other options: model.align_corners") and note in weights.summary
    with pytest.raises(UserError, match=r"config\.init_prefix must be 'auto'.*got 'ema'"):
        load(folder, trained.config, init_prefix="ema")
    with pytest.raises(UserError, match=r"same body; got .*hub: .*is mini, and here it is resnet"):
        load(folder, values(variant="resnet_mini"))
    described = json.loads((folder / "config.json").read_text())
    del described["network_options"]
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"config\.json cannot be used .*network_options"):
        load(tmp_path, trained.config)


def test_the_head_of_another_task_starts_fresh(pose):
    trained, folder = pose
    plain = values(variant="mini")
    data = plain["data"] | {"classes": list("abcdefghijklmnopq"), "palette": [[0, 0, 0]] * 17}
    weights = load(folder, plain, trained.config["model"], data=data)
    assert weights.record["initialized"].keys() == {
        "head: of another task",
        "heads of GTM: of another task",
    }
    assert any("data.classes" in note for note in weights.record["notes"])
    kernel, other = (
        np.asarray(x["params"]["head"]["classifier"]["kernel"])
        for x in (weights.variables, trained.variables)
    )
    assert kernel.shape == other.shape and (kernel != other).any()


def test_weight_files_need_a_name(segmentation, tmp_path):
    trained, _, _ = segmentation
    options = {"gtm": ("none", "none", "supervised")}
    count = trained.task.num_classes
    _, variables = create_model("gsto_hrnet_mini", count, seed=3, **options)
    export_weights(tmp_path / "weights.safetensors", variables, GSTO_FORMAT)
    model, loaded = create_model(
        "gsto_hrnet_mini", count, weights=tmp_path / "weights.safetensors", **options
    )
    assert model.num_classes == count
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), loaded, variables)
    with pytest.raises(UserError, match="name must be"):
        create_model(weights=tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        create_model("hrnetv2_mini", weights=tmp_path / "missing.pth")


def test_the_files_say_what_the_network_needs(segmentation):
    trained, _, folder = segmentation
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    config = json.loads((folder / "config.json").read_text())
    classes = trained.config["data"]["classes"]
    assert config["id2label"] == {str(n): name for n, name in enumerate(classes)}
    assert config["label2id"] == {name: n for n, name in enumerate(classes)}
    assert config["options"] == {"gfm_style": "paper", "gtm": ["none", "none", "supervised"]}
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == list(trained.task.mean)
    assert processor["pad_size_divisor"] == trained.config["eval"]["pad_to"]
    header = read_header(folder / "README.md")
    assert header["license"] == "mit" and header["pipeline_tag"] == "image-segmentation"
    (result,) = header["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mean_iou", "value": 0.625}]
    assert result["dataset"]["split"] == "val"


def read_header(card):
    """Returns the YAML header of a card, each value of which is JSON."""
    _, header, _ = card.read_text().split("---\n", 2)
    pairs = (line.split(": ", 1) for line in header.splitlines())
    return {key: json.loads(value) for key, value in pairs}


def test_nothing_is_replaced(segmentation, tmp_path):
    trained, _, folder = segmentation
    before = (folder / "config.json").stat().st_mtime_ns
    (tmp_path / "file").write_text("mine")
    for path in (folder, tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="nothing in it is replaced"):
            write_hub_folder(path, trained, Origin(), None)
    assert (folder / "config.json").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("architecture"), "config.json .*lacks 'architecture'"),
        (lambda c: c.update(architecture="gsto_hrnet_w99"), "config.json .*gsto_hrnet_w"),
        (lambda c: c.update(options={"new": 1}), "config.json .*new is not a keyword"),
        (lambda c: c.update(num_classes="3"), "config.json .*'num_classes' must be an integer"),
        (lambda c: c.update(weights=None), "config.json .*'weights' must be an object"),
    ],
)
def test_damaged_folders_are_refused(segmentation, tmp_path, change, message):
    config = json.loads((segmentation[2] / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(
        (segmentation[2] / "model.safetensors").read_bytes()
    )
    with pytest.raises(UserError, match=message):
        create_model(weights=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="not a safetensors file"):
        create_model(weights=tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="does not exist"):
        create_model(weights=tmp_path)


def test_the_origin_is_that_of_the_run_and_its_parents(tmp_path):
    parent, child = tmp_path / "parent", tmp_path / "child"
    file = {"path": "/home/me/released.pth", "sha256": "ab" * 32, "format": "GSTO-HRNet"}
    checkpoint = {"path": str(parent / "checkpoints" / "8"), "format": "checkpoint"}
    for run, record in ((parent, file), (child, checkpoint)):
        run.mkdir()
        (run / "init_from.json").write_text(json.dumps(record))
    origin = find_origin(child / "best" / "20")
    assert [source["file"] for source in origin.sources] == ["parent, step 8", "released.pth"]
    hub = {"path": "/home/me/hub", "format": "gsto_jax", "sources": list(origin.sources)}
    hub["license"] = "cc-by-nc-4.0"
    (parent / "init_from.json").write_text(json.dumps(hub))
    from_hub = find_origin(child / "best" / "20")
    assert [source["file"] for source in from_hub.sources] == [
        *("parent, step 8", "hub", "parent, step 8", "released.pth")
    ]
    licenses = [source["license"] for source in from_hub.sources]
    assert licenses == ["unknown", "cc-by-nc-4.0", "unknown", "unknown"]
    assert "academic research" in from_hub.note and "hub (license cc-by-nc-4.0)" in from_hub.note
    assert "/home" not in json.dumps(origin.record)
    assert origin.license_fields == {"license": "unknown"}
    assert origin.note.startswith("warning") and "academic research" in origin.note
    named = find_origin(child / "best" / "20", "Academic research only")
    assert named.license_fields == {"license": "other", "license_name": "academic-research-only"}
    assert "released.pth" in named.note and "warning" not in named.note
    assert find_origin(tmp_path / "copied", "MIT").license_fields == {"license": "mit"}
    assert find_origin(tmp_path / "copied", "MIT").note == ""
    assert find_scores(tmp_path / "copied") is None
