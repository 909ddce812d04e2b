"""Class tables, config validation, and what importing the package brings in."""

import ast
import dataclasses
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import data_pipelines
from data_pipelines import CAMVID, CITYSCAPES, SCENES, ClassTable, DataConfig, DataError

PACKAGE = Path(data_pipelines.__file__).parent


def test_cityscapes_table():
    assert len(CITYSCAPES.names) == len(set(CITYSCAPES.palette)) == 19
    raw_of = {CITYSCAPES.names[train]: raw for raw, train in CITYSCAPES.id_map if train != 255}
    assert (raw_of["road"], raw_of["sky"], raw_of["bicycle"]) == (7, 23, 33)
    assert sorted(train for _, train in CITYSCAPES.id_map if train != 255) == list(range(19))
    assert {raw for raw, _ in CITYSCAPES.id_map} == {*range(-1, 34), 255}
    assert (
        dict(CITYSCAPES.id_map)[-1]
        == dict(CITYSCAPES.id_map)[0]
        == dict(CITYSCAPES.id_map)[29]
        == 255
    )
    assert CITYSCAPES.palette[CITYSCAPES.names.index("car")] == (0, 0, 142)


def test_cityscapes_ids_equal_reference(golden):
    ids = {k.split("/")[1]: v for k, v in golden("h1").items() if k.startswith("cityscapes/")}
    for raw, train in zip(ids["ids"].tolist(), ids["train_ids"].tolist(), strict=True):
        assert dict(CITYSCAPES.id_map)[raw] == (train if 0 <= train < 19 else 255)


def test_camvid_and_scenes_tables():
    assert len(CAMVID.names) == len(set(CAMVID.palette)) == 11
    assert [dict(CAMVID.id_map)[raw] for raw in (0, 3, 10, 11)] == [0, 3, 10, 255]
    assert len(SCENES.names) == len(set(SCENES.palette)) == 9


def test_table_needs_a_color_for_each_name():
    with pytest.raises(ValueError, match="palette must have 2 values"):
        ClassTable(name="odd", names=("a", "b"), palette=((0, 0, 0),))


def test_lists_become_tuples(make_scenes_config):
    config = make_scenes_config(
        crop=[8, 9], palette=[list(color) for color in SCENES.palette], mean=[0.5] * 3
    )
    assert config.crop == (8, 9)
    assert config.palette == SCENES.palette
    assert config.mean == (0.5, 0.5, 0.5)
    hash(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.crop = (1, 1)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("source", "zip", "one of scenes, folder, tfds"),
        ("train_split", "", "the name of a split"),
        ("crop", (0, 5), "(height, width)"),
        ("crop", 5, "(height, width)"),
        ("crop", "ab", "(height, width)"),
        ("base_size", -1, ">= 0"),
        ("scale_min", 0, "> 0"),
        ("scale_step", -0.1, ">= 0"),
        ("num_scales", 0, ">= 1"),
        ("flip", 1, "True or False"),
        ("mean", (123, 117, 104), ">= 0 and <= 1"),
        ("std", (0.2, 0.0, 0.2), "> 0"),
        ("std", (0.2,), "one value for each channel of data.channels=3"),
        ("mean", (0.5,) * 4, "one value for each channel of data.channels=3"),
        ("mean", (), "one value for each channel of data.channels=3"),
        ("channels", 0, ">= 1"),
        ("channels", 17, "<= 16"),
        ("value_range", (5, 1), "low < high"),
        ("value_range", (0, 1, 2), "2 values"),
        ("workers", -1, ">= 0"),
        ("classes", (), "2 to 255"),
        ("classes", ("a", "b"), "the 9 classes of scenes"),
        ("classes", ("a",), "2 to 255"),
        ("palette", ((0, 0, 0),), "one RGB color for each of the 9"),
        ("palette", ((0, 0, 256),) * 9, "<= 255"),
        ("ignore_label", 3, "9..255"),
        ("id_map", ((0, 0),), "() with data.source=scenes"),
        ("id_map", ((0, 0), (0, 1)), "one train id for id 0"),
        ("id_map", ((0, 9),), "0..8"),
        ("id_map", ((0, 1, 2),), "pairs"),
        ("train_size", 0, "above 0 with data.source=scenes"),
        ("image_size", (8, 8), "16 pixels"),
        ("flip_pairs", ((0, 9),), "0..8"),
    ],
)
def test_wrong_scenes_values(make_scenes_config, field, value, expected):
    changes = {field: value} | ({"palette": ()} if field == "classes" else {})
    with pytest.raises(DataError, match=rf"^config\.data\.{field} .*{re.escape(expected)}"):
        make_scenes_config(**changes)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("root", "", "--config.data.root=FOLDER"),
        ("labels", "", "a path, unless data.list_file"),
        ("image_suffix", None, "suffix of file names"),
        ("images", "images/{part}", "a path whose only placeholder is {split}"),
        ("images", "images", "a path with {split}"),
        ("list_file", "all.txt", "a path with {split}"),
    ],
)
def test_wrong_folder_values(make_folder_config, tmp_path, field, value, expected):
    with pytest.raises(DataError, match=rf"^config\.data\.{field} must be .*{re.escape(expected)}"):
        make_folder_config(tmp_path, **{field: value})


COLORS = {"label_encoding": "colors", "palette": ((0, 0, 0), (128, 0, 0), (0, 128, 0))}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("label_encoding", {"label_encoding": "polygons"}),
        ("palette", COLORS | {"palette": ()}),
        ("palette", COLORS | {"palette": ((0, 0, 0), (1, 1, 1), (0, 0, 0))}),
        ("ignore_colors", COLORS | {"ignore_colors": ((128, 0, 0),)}),
        ("ignore_colors", COLORS | {"ignore_colors": ((9, 9, 9), (9, 9, 9))}),
        ("ignore_colors", {"ignore_colors": ((9, 9, 9),)}),
        ("extra_colors", {"extra_colors": (((9, 9, 9), "b"),)}),
        ("extra_colors", COLORS | {"extra_colors": (((9, 9, 9), "no class"),)}),
        ("extra_colors", COLORS | {"extra_colors": (((9, 9, 256), "b"),)}),
        ("extra_colors", COLORS | {"extra_colors": ((9, 9, 9, "b"),)}),
        ("extra_colors", COLORS | {"extra_colors": (((128, 0, 0), "b"),)}),
        ("extra_colors", COLORS | {"extra_colors": (((9, 9, 9), "b"),) * 2}),
        (
            "ignore_colors",
            COLORS | {"extra_colors": (((9, 9, 9), "b"),), "ignore_colors": ((9, 9, 9),)},
        ),
        ("color_tolerance", {"color_tolerance": 5.0}),
        ("color_tolerance", COLORS | {"color_tolerance": 443.0}),
        ("id_map", COLORS | {"id_map": ((0, 0), (1, 1), (2, 2))}),
        ("label_encoding", COLORS | {"source": "tfds", "name": "mine"}),
        ("classes", {"classes": tuple(map(str, range(256))), "palette": ()}),
        ("val_fraction", {"val_fraction": 1.0}),
        ("eval_split", {"val_fraction": 0.2, "eval_split": "train"}),
    ],
)
def test_wrong_label_values(make_folder_config, tmp_path, field, changes):
    with pytest.raises(DataError, match=rf"^config\.data\.{field} must be "):
        make_folder_config(tmp_path, **changes)


def test_fraction_of_train_needs_no_split_in_paths(make_folder_config, tmp_path):
    config = make_folder_config(tmp_path, images="images", labels="labels", val_fraction=0.2)
    assert (config.train_split, config.eval_split) == ("train", "val")
    make_folder_config(tmp_path, **COLORS, ignore_colors=((255, 255, 255),), color_tolerance=9)


JSON = {"annotations": "{split}.json", "label_suffix": ""}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("category_map", {"category_map": (("van", "a"),)}),
        ("category_map", JSON | {"category_map": (("van", "d"),)}),
        ("category_map", JSON | {"category_map": (("van", "a"), ("van", "b"))}),
        ("category_map", JSON | {"category_map": (("van", 1),)}),
        ("annotations", JSON | {"source": "tfds", "name": "mine"}),
        ("annotations", JSON | {"list_file": "{split}.txt"}),
        ("annotations", {"annotations": "all.json", "label_suffix": "", "labels": "labels"}),
        ("labels", JSON | {"labels": "labels"}),
        ("labels", JSON | {"annotations": "all.json"}),
        ("labels", JSON | {"images": "x/{split}", "labels": "x/{split}/"}),
        ("labels", JSON | {"annotations": "x/{split}", "labels": "./x/{split}"}),
        ("label_suffix", {"annotations": "{split}.json"}),
        ("id_map", JSON | {"id_map": ((0, 0), (1, 1), (2, 2))}),
        ("label_encoding", JSON | COLORS),
    ],
)
def test_wrong_annotation_values(make_folder_config, tmp_path, field, changes):
    with pytest.raises(DataError, match=rf"^config\.data\.{field} must be "):
        make_folder_config(tmp_path, **changes)


def test_data_error_survives_pickling():
    assert str(pickle.loads(pickle.dumps(DataError("a, b")))) == "a, b"
    assert issubclass(DataError, ValueError)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_imports_are_allowed(path):
    allowed = {"PIL", "absl", "cv2", "grain", "numpy", "data_pipelines", *sys.stdlib_module_names}
    allowed |= {"array_record", "pycocotools", "scipy", "tensorflow_datasets", "zstandard"}
    allowed |= {"gsto_jax"}  # tests/test_boundaries.py says what of it
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        assert {name.split(".")[0] for name in names} <= allowed


def test_works_where_jax_cannot_be_imported():
    # grain itself imports jax where it finds it, so absence is what can be shown.
    code = """
import sys
for name in ("jax", "flax", "tensorflow"):
    sys.modules[name] = None
from data_pipelines import SCENES, DataConfig, make_source, train_batches
config = DataConfig(source="scenes", train_size=2, eval_size=1, image_size=(16, 16),
                    classes=SCENES.names, palette=SCENES.palette, crop=(8, 8))
print(next(train_batches(config, make_source(config, "train"), 2, seed=0))["image"].shape)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.strip() == "(2, 8, 8, 3)", result.stderr


def test_defaults_are_the_usual_recipe():
    config = DataConfig(
        source="folder",
        root="x",
        list_file="{split}.txt",
        classes=CAMVID.names,
        palette=CAMVID.palette,
        id_map=CAMVID.id_map,
        crop=(240, 320),
    )
    assert (config.scale_min, config.scale_step, config.num_scales) == (0.5, 0.1, 17)
    assert (config.ignore_label, config.workers, config.base_size) == (255, "auto", 0)


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_have_a_mean_each(channels, make_scenes_config):
    fields = {"source": "folder", "root": "x", "images": "{split}", "labels": "{split}"}
    values = {"channels": channels, "mean": (0.5,) * channels, "std": (0.2,) * channels}
    config = make_scenes_config(**fields | values)
    assert config.decode_options.channels == channels == len(config.mean)
    with pytest.raises(DataError, match=r"config\.data\.mean must be .* --channel_statistics"):
        make_scenes_config(**fields, channels=channels)
    with pytest.raises(DataError, match=r"config\.data\.channels must be 3 \(RGB\)"):
        make_scenes_config(**values)
