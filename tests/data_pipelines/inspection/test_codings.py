"""How labels are coded, their classes and names."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.inspection.class_names import NamedClass, find_names_files
from data_pipelines.inspection.classes import propose_classes
from data_pipelines.inspection.coding import inspect_coding
from data_pipelines.labels import unpack_color
from tests.data_pipelines.dataset_layouts import save

STRIPES = np.repeat(np.repeat([[0, 1, 2, 3]], 4, 1), 16, 0).astype(np.uint8)


def propose(*labels, names=()):
    coding = inspect_coding(labels)
    return coding, propose_classes(coding, names)


def test_ids_from_0_need_no_map(tmp_path):
    save(tmp_path / "a.png", STRIPES)
    coding, proposal = propose(tmp_path / "a.png")
    assert coding.pixels == dict.fromkeys(range(4), 64)
    assert proposal.options == {"classes": ("class_0", "class_1", "class_2", "class_3")}


@pytest.mark.parametrize(
    ("ids", "pairs"),
    [
        ([0, 255], ((0, 0), (255, 1))),
        ([0, 1, 255], None),
        ([1, 2, 3], ((1, 0), (2, 1), (3, 2))),
        ([0, 7, 8, 255], ((0, 0), (7, 1), (8, 2), (255, 255))),
        ([0, 128, 255], ((0, 0), (128, 1), (255, 2))),
    ],
)
def test_ids_get_consecutive_train_ids(ids, pairs, tmp_path):
    save(tmp_path / "a.png", np.repeat(np.array(ids, np.uint8)[None], 4, 0))
    assert propose(tmp_path / "a.png")[1].options.get("id_map") == pairs


def test_palettes_that_differ_are_read_as_colors(tmp_path):
    colors = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    save(tmp_path / "a.png", STRIPES, colors)
    save(tmp_path / "b.png", STRIPES, colors)
    assert inspect_coding([tmp_path / "a.png", tmp_path / "b.png"]).encoding == "ids"
    save(tmp_path / "b.png", 3 - STRIPES, colors[::-1])
    coding, proposal = propose(tmp_path / "a.png", tmp_path / "b.png")
    assert coding.encoding == "colors"
    assert set(proposal.options["palette"]) == set(colors)
    assert coding.pixels[0xFF0000] == 2 * 64


def test_smooth_masks_get_a_tolerance(tmp_path):
    mask = np.kron(np.eye(4, dtype=np.uint8) * 255, np.ones((24, 24), np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "jpeg", quality=40)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    coding, proposal = propose(tmp_path / "a.jpg")
    assert proposal.options["palette"] == ((0, 0, 0), (255, 255, 255))
    assert 0 < proposal.options["color_tolerance"] < 255
    assert any("JPEG" in doubt for doubt in coding.doubts)


def test_gray_masks_get_no_colors_of_a_file(tmp_path):
    mask = np.kron(np.eye(4, dtype=np.uint8) * 200, np.ones((24, 24), np.uint8))
    Image.fromarray(mask).save(tmp_path / "a.jpg", quality=40)
    coding = inspect_coding([tmp_path / "a.jpg"], [(255, 0, 0), (0, 0, 0), (0, 255, 0)])
    assert len(coding.pixels) == 2
    assert all(red == green == blue for red, green, blue in map(unpack_color, coding.pixels))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "sky\ncar\nvoid\n"),
        ("codes.txt", "0 sky\n1 car\n2 void\n"),
        ("labels.json", '["sky", "car", "void"]'),
        ("label_map.json", '{"0": "sky", "1": "car", "2": "void"}'),
        ("labels.json", '{"sky": 0, "car": 1, "void": 2}'),
        ("_classes.csv", "Pixel Value, Class\n0, sky\n1, car\n2, void\n"),
        ("classes.json", '{"classes": [{"id": 0, "name": "sky"}, {"id": 1, "name": "car"},'
         ' {"id": 2, "name": "void"}]}'),
    ],
)  # fmt: skip
def test_names_of_ids(file, text, tmp_path):
    (tmp_path / file).write_text(text)
    (names,) = find_names_files(tmp_path, [tmp_path / "labels"][:0])
    assert names.by_id() == {0: "sky", 1: "car", 2: "void"}
    save(tmp_path / "a.png", STRIPES[:, :12])
    _, proposal = propose(tmp_path / "a.png", names=[names])
    assert proposal.options["classes"] == ("sky", "car")
    assert proposal.options["id_map"] == ((0, 0), (1, 1), (2, 255))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("label_colors.txt", "128 128 128\tsky\n64 0 128\ttraffic light\n"),
        ("labelmap.txt", "# label:color:parts\nsky:128,128,128::\ntraffic light:64,0,128::\n"),
        ("class_dict.csv", "name,r,g,b\nsky,128,128,128\ntraffic light,64,0,128\n"),
        ("colors.json", '{"sky": [128, 128, 128], "traffic light": [64, 0, 128]}'),
        ("classes.json", '[{"name": "sky", "color": "#808080"}, {"name": "traffic light",'
         ' "color": [64, 0, 128]}]'),
    ],
)  # fmt: skip
def test_names_of_colors(file, text, tmp_path):
    (tmp_path / file).write_text(text)
    (names,) = find_names_files(tmp_path, [])
    assert names.has_colors
    assert names.classes == (
        NamedClass("sky", None, (128, 128, 128)),
        NamedClass("traffic light", None, (64, 0, 128)),
    )


def test_names_from_1_leave_0_for_the_background(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    save(tmp_path / "a.png", STRIPES)
    _, proposal = propose(tmp_path / "a.png", names=find_names_files(tmp_path, []))
    assert proposal.options["classes"] == ("background", "a", "b", "c")
    assert any("background" in doubt for doubt in proposal.doubts)


@pytest.mark.parametrize(
    "text",
    [
        '[{"name": "a", "id": Infinity}, {"name": "b", "id": 1}]',
        '{"a": [300, 0, 0], "b": [0, 0, 0]}',
        '[{"name": "a", "color": {"r": 1}}, {"name": "b"}]',
        "[[1, 2], [3, 4]]",
    ],
)
def test_files_without_usable_names_are_left_out(text, tmp_path):
    (tmp_path / "classes.json").write_text(text)
    assert not find_names_files(tmp_path, [])
