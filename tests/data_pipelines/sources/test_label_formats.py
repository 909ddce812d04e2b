"""Label files of every format: ids and colors, their errors, and the audit of both."""

import io
import pickle
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines import DataError, FolderSource, audit_labels, group_issues, report_labels
from data_pipelines.files.images import decode_colors, decode_label
from data_pipelines.sources.color_map import ColorMap
from gsto_jax.image_files import DecodeOptions
from tests.data_pipelines.folder_trees import write
from tests.image_bytes import GRAY, RGB, RGBA, chunk, exif, png, tiff

PALETTE = ((0, 0, 0), (200, 30, 40), (20, 60, 250))
IGNORED = (255, 255, 255)
COLORS = {"label_encoding": "colors", "palette": PALETTE, "ignore_colors": (IGNORED,)}
TRAIN_IDS = np.random.default_rng(3).choice([0, 1, 2, 255], (3, 5)).repeat(8, 0).repeat(8, 1)
TRAIN_IDS = TRAIN_IDS.astype(np.uint8)
COLOR_OF = np.array((*PALETTE, *[IGNORED] * 253), np.uint8)
MASK = COLOR_OF[TRAIN_IDS]
OPTIONS = DecodeOptions()


def encode(array, kind, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def webp(rgb):
    return encode(rgb, "WEBP", lossless=True)


def palette_image(kind, order, train_ids=TRAIN_IDS):
    """Encodes colors with a palette whose indices are in any order."""
    image = Image.fromarray(np.array(order, np.uint8)[np.minimum(train_ids, 3)])
    colors = [(0, 0, 0)] * 4
    for index, color in zip(order, (*PALETTE, IGNORED), strict=True):
        colors[index] = color
    image.putpalette(sum(colors, ()))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def source_of(tmp_path, make_folder_config):
    """Opens label files, given by name, with an image each."""

    def build(files, size=TRAIN_IDS.shape, **changes):
        for name, data in files.items():
            path = tmp_path / "ids/val" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            write(tmp_path / "img/val" / f"{path.stem}.png", np.mgrid[: size[0], : size[1], :3][1])
        fields = {"images": "img/{split}", "labels": "ids/{split}"}
        fields |= {"image_suffix": "", "label_suffix": ""}
        config = make_folder_config(tmp_path, **fields | changes)
        return FolderSource(config, "val"), config

    return build


ID_FILES = {
    "gray.png": png(TRAIN_IDS, GRAY),
    "gray16.PNG": png(TRAIN_IDS.astype("<u2"), GRAY, 16),
    "gray.tif": encode(TRAIN_IDS, "TIFF", compression="tiff_lzw"),
    "u2.tif": tiff(TRAIN_IDS.astype("<u2")),
    "i4.TIFF": tiff(TRAIN_IDS.astype("<i4")),
    "u2 big endian.tif": encode(TRAIN_IDS.astype(">u2"), "TIFF"),
    "gray.bmp": encode(TRAIN_IDS, "BMP"),
    "rgb.bmp": encode(TRAIN_IDS[..., None].repeat(3, 2), "BMP"),
    "gray.pgm": encode(TRAIN_IDS, "PPM"),
    "gray.webp": webp(TRAIN_IDS[..., None].repeat(3, 2)),
    "rgb.png": png(TRAIN_IDS[..., None].repeat(3, 2), RGB),
    "opaque.png": png(np.dstack([*[TRAIN_IDS] * 3, np.full_like(TRAIN_IDS, 255)]), RGBA),
    "turned.png": png(np.rot90(TRAIN_IDS), GRAY, before=chunk(b"eXIf", exif(6))),
}
COLOR_FILES = {
    "rgb.png": png(MASK, RGB),
    "rgba.png": png(np.dstack([MASK, np.arange(MASK[..., 0].size).reshape(MASK.shape[:2])]), RGBA),
    "palette.png": palette_image("PNG", (0, 1, 2, 3)),
    "shuffled.PNG": palette_image("PNG", (2, 3, 1, 0)),
    "palette.gif": palette_image("GIF", (3, 1, 0, 2)),
    "rgb.tif": encode(MASK, "TIFF", compression="tiff_lzw"),
    "rgba.tif": encode(np.dstack([MASK, MASK[..., 0]]), "TIFF"),
    "palette.tif": palette_image("TIFF", (1, 2, 3, 0)),
    "rgb.bmp": encode(MASK, "BMP"),
    "rgb.webp": webp(MASK),
    "turned.png": png(np.rot90(MASK), RGB, before=chunk(b"eXIf", exif(6))),
}


@pytest.mark.parametrize("name", ID_FILES)
def test_ids(name):
    np.testing.assert_array_equal(decode_label(ID_FILES[name], name, OPTIONS), TRAIN_IDS)


@pytest.mark.parametrize("name", COLOR_FILES)
def test_colors(name, make_folder_config, tmp_path):
    colors = decode_colors(COLOR_FILES[name], name, OPTIONS)
    packed = MASK.astype(np.uint32) @ np.array([2**16, 2**8, 1], np.uint32)
    np.testing.assert_array_equal(colors, packed)
    label = ColorMap(make_folder_config(tmp_path, **COLORS)).train_ids(colors, name)
    np.testing.assert_array_equal(label, TRAIN_IDS)
    assert label.dtype == np.uint8


LABELS = {f"{name} 1": np.roll(TRAIN_IDS, 3 * n, 1) for n, name in enumerate("abcd")}
FROM_ONE = {"id_map": ((1, 0), (2, 1), (3, 2), (0, 255))}
ONE_FOLDER = {"labels": "img/{split}", "image_suffix": ".jpg", "label_suffix": "_mask.png"}
IGNORE_3 = {"id_map": ((0, 0), (1, 1), (2, 2), (3, 255))}
FILE = "ids/{split}/{name}"
# Where labels lie, how a label is written, and the options to read it.
LAYOUTS: dict[str, Any] = {
    "ids": (FILE + ".png", lambda ids: png(ids, GRAY), {}),
    "ids from 1": (FILE + ".png", lambda ids: png(ids + np.uint8(1), GRAY), FROM_ONE),
    "8 bits": (
        FILE + ".png",
        lambda ids: png(ids.astype("<u2") * 100, GRAY, 16),
        {"id_map": ((0, 0), (100, 1), (200, 2), (25500, 255))},
    ),
    "RGB": (FILE + ".png", lambda ids: png(COLOR_OF[ids], RGB), COLORS),
    "RGBA": (FILE + ".png", lambda ids: png(np.dstack([COLOR_OF[ids], ids]), RGBA), COLORS),
    "palette of ids": (FILE + ".png", partial(palette_image, "PNG", (0, 1, 2, 3)), IGNORE_3),
    "palette of colors": (FILE + ".png", partial(palette_image, "PNG", (3, 2, 0, 1)), COLORS),
    "TIFF": (FILE + ".TIF", lambda ids: tiff(ids.astype("<i4")), {}),
    "WebP": (FILE + ".webp", lambda ids: webp(COLOR_OF[ids]), COLORS),
    "BMP": (FILE + ".bmp", lambda ids: encode(ids, "BMP"), {}),
    "one folder": ("img/{split}/{name}_MASK.png", lambda ids: png(ids, GRAY), ONE_FOLDER),
    "list": ("masks/{name}, {split}.png", lambda ids: png(ids, GRAY), {"list_file": "{split}.csv"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_give_the_same_labels(tmp_path, make_folder_config, layout):
    pattern, encode_ids, changes = LAYOUTS[layout]
    lines = ["image;mask"]
    for name, ids in LABELS.items():
        write(tmp_path / f"img/val/{name}.JPG", np.full((*ids.shape, 3), ord(name[0]), np.uint8))
        path = tmp_path / pattern.format(split="val", name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_ids(ids))
        lines.append(f"img/val/{name}.JPG;{path.relative_to(tmp_path)}")
    (tmp_path / "val.csv").write_text("\n".join(lines))
    fields = {"images": "img/{split}", "labels": "ids/{split}", "image_suffix": ""}
    config = make_folder_config(tmp_path, **fields | {"label_suffix": ""} | changes)
    source = FolderSource(config, "val")
    for index, (name, ids) in enumerate(LABELS.items()):
        assert source.name(index).endswith(name)
        np.testing.assert_array_equal(source[index]["label"], ids)
        assert source[index]["image"][0, 0, 0] == ord(name[0])
    stats = audit_labels(source)
    assert not stats.problems
    assert stats.pixels == {k: 4 * (k == TRAIN_IDS).sum() for k in (0, 1, 2, 255)}


def test_palette_files_hold_ids_unless_colors_count(source_of):
    names = {"a.png": (0, 1, 2, 3), "b.png": (2, 3, 1, 0)}
    files = {name: palette_image("PNG", order) for name, order in names.items()}
    id_map = ((0, 0), (1, 1), (2, 2), (3, 255))
    source, config = source_of(files, id_map=id_map)
    np.testing.assert_array_equal(source[0]["label"], TRAIN_IDS)
    assert (source[1]["label"] != TRAIN_IDS).mean() > 0.5
    report = report_labels(audit_labels(source), config, "val", trains=False)
    (warning,) = report.warnings
    assert "id 0 has the colors (0, 0, 0) and (255, 255, 255)" in warning
    assert "label_encoding=colors" in warning
    source, _ = source_of(files, **COLORS)
    for index in range(2):
        np.testing.assert_array_equal(source[index]["label"], TRAIN_IDS)


def test_other_ignore_label(source_of):
    source, _ = source_of({"a.png": COLOR_FILES["rgb.png"]}, ignore_label=200, **COLORS)
    expected = np.where(TRAIN_IDS == 255, 200, TRAIN_IDS)
    np.testing.assert_array_equal(source[0]["label"], expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0]["label"], expected)
    assert len(pickle.dumps(source)) < 10**5


WRONG_IDS = {
    "colors": (COLOR_FILES["rgb.png"], "3 channels .*label_encoding=colors and data.palette"),
    "transparent": (
        png(np.dstack([*[TRAIN_IDS] * 3, TRAIN_IDS]), RGBA),
        "4 channels .*label_encoding",
    ),
    "deep": (png(TRAIN_IDS[..., None].repeat(3, 2).astype("<u2"), RGB, 16), "3 channels"),
    "float": (tiff(TRAIN_IDS.astype("<f4")), "float32 values from 0 to 255"),
    "nan": (tiff(np.full((4, 4), np.nan, "<f4")), "float32 values from nan to nan"),
    "negative": (tiff(TRAIN_IDS.astype("<i4") - 1), "int32 values from -1 to 254"),
    "large": (tiff(TRAIN_IDS.astype("<i4") * 1000), "int32 values from 0 to 255000"),
    "scaled": (b"P5 4 1 18\n\x00\x01\x02\x03", "PNG"),
}


@pytest.mark.parametrize("kind", WRONG_IDS)
def test_files_without_ids(kind):
    data, pattern = WRONG_IDS[kind]
    with pytest.raises(DataError, match=rf"a\.png.*{pattern}"):
        decode_label(data, "a.png", OPTIONS)


WRONG_COLORS = {
    "deep gray": (png(TRAIN_IDS.astype("<u2"), GRAY, 16), "8 bits.*label_encoding=ids"),
    "deep": (png(MASK.astype("<u2") * 257, RGB, 16), "8 bits"),
    "truncated": (COLOR_FILES["rgb.png"][:-30], "truncated"),
    "nan": (tiff(np.full((4, 4, 3), np.nan, "<f4")), "8 bits"),
}


@pytest.mark.parametrize("kind", WRONG_COLORS)
def test_files_without_colors(kind):
    data, pattern = WRONG_COLORS[kind]
    with pytest.raises(DataError, match=rf"a\.png.*{pattern}"):
        decode_colors(data, "a.png", OPTIONS)


def test_unknown_colors_are_named(source_of):
    mask = MASK.copy()
    mask[0, :3], mask[1, 0] = (200, 33, 44), (250, 250, 240)
    source, _ = source_of({"a.png": png(mask, RGB), "b.png": png(MASK, RGB)}, **COLORS)
    message = (
        r"a\.png has .*\(200, 33, 44\) \(3 px, nearest 'b' \(200, 30, 40\) at distance 5\)"
        r".*\(250, 250, 240\) \(1 px, nearest ignored \(255, 255, 255\) at distance 17\)"
        r".*data\.palette, data\.extra_colors .*data\.color_tolerance"
    )
    with pytest.raises(DataError, match=message):
        source[0]
    stats = audit_labels(source)
    assert stats.unknown_ids == {200 << 16 | 33 << 8 | 44: 3, 250 << 16 | 250 << 8 | 240: 1}
    assert stats.total == 2 * TRAIN_IDS.size
    assert [problem.fraction for problem in stats.problems] == [4 / TRAIN_IDS.size]


def test_classes_of_several_colors(source_of):
    """Pixels in extra colors, or near them, are of the class; unknown ones name it as nearest."""
    extra = {"extra_colors": (((0, 200, 0), "b"), ((90, 90, 0), "a"), ((0, 0, 90), "b"))}
    mask = MASK.copy()
    mask[TRAIN_IDS == 1] = [(200, 30, 40), (0, 200, 0), (0, 0, 90), (0, 200, 0)] * (
        (TRAIN_IDS == 1).sum() // 4
    )
    files = {"a.png": png(mask, RGB)}
    source, _ = source_of(files, **COLORS, **extra)
    np.testing.assert_array_equal(source[0]["label"], TRAIN_IDS)
    expected = {n: np.count_nonzero(np.isin(TRAIN_IDS, n)) for n in (0, 1, 2)}
    assert {n: audit_labels(source).pixels[n] for n in expected} == expected
    mask[0, 0] = (0, 190, 0)
    source, _ = source_of({"a.png": png(mask, RGB)}, **COLORS, **extra)
    with pytest.raises(DataError, match=r"nearest 'b' \(0, 200, 0\) at distance 10.*extra_colors"):
        source[0]
    source, _ = source_of({"a.png": png(mask, RGB)}, **COLORS, **extra, color_tolerance=11)
    assert source[0]["label"][0, 0] == 1


def test_a_palette_with_red_and_blue_swapped_is_named(source_of):
    swapped = COLORS | {"palette": tuple(color[::-1] for color in PALETTE)}
    source, _ = source_of({"a.png": png(MASK, RGB)}, **swapped)
    with pytest.raises(DataError, match="BGR"):
        source[0]


def test_many_unknown_colors_are_counted_together(source_of):
    photo = np.random.default_rng(0).integers(0, 256, MASK.shape, np.uint8)
    stats = audit_labels(source_of({"a.png": png(photo, RGB)}, **COLORS)[0])
    assert len(stats.unknown_ids) == 257
    assert stats.total == TRAIN_IDS.size
    (problem,) = stats.problems
    assert len(str(problem)) < 1000


def nearest_class(rgb, tolerance):
    """Computes the train id of a color by distances to all classes; None beyond the tolerance."""
    colors = np.array((*PALETTE, IGNORED), np.float64)
    distances = np.linalg.norm(colors - np.array(rgb), axis=1)
    return (0, 1, 2, 255)[distances.argmin()] if distances.min() <= tolerance else None


def test_anti_aliased_colors_get_the_nearest_class(source_of):
    blurred = cv2.GaussianBlur(MASK, (5, 5), 1)
    source, _ = source_of({"a.png": png(blurred, RGB)}, **COLORS, color_tolerance=442)
    expected = [nearest_class(rgb, 442) for rgb in blurred.reshape(-1, 3)]
    np.testing.assert_array_equal(source[0]["label"].ravel(), expected)
    stats = audit_labels(source)
    exact = [tuple(rgb) in (*PALETTE, IGNORED) for rgb in blurred.reshape(-1, 3)]
    assert stats.inexact == len(exact) - sum(exact) > 0
    assert stats.pixels == {k: expected.count(k) for k in set(expected)}
    assert not stats.problems


@pytest.mark.parametrize("tolerance", [0.0, 4.9, 5.0])
def test_the_tolerance_is_a_euclidean_distance(source_of, tolerance):
    mask = MASK.copy()
    mask[0, 0] = (200, 33, 44)
    source, _ = source_of({"a.png": png(mask, RGB)}, **COLORS, color_tolerance=tolerance)
    if tolerance < 5:
        with pytest.raises(DataError, match=r"\(200, 33, 44\)"):
            source[0]
    else:
        assert source[0]["label"][0, 0] == 1


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_color_labels_are_a_warning_with_a_tolerance(source_of, kind):
    data = encode(MASK, kind, quality=80)
    altered = decode_colors(data, "a", OPTIONS) != decode_colors(
        COLOR_FILES["rgb.png"], "b", OPTIONS
    )
    files = {f"{n}.{kind.lower()}": data for n in range(2)}
    source, _ = source_of(files, **COLORS)
    (line,) = group_issues(audit_labels(source).problems)
    assert "2 records" in line and kind.lower() in line.lower() and "color_tolerance" in line
    source, config = source_of(files, **COLORS, color_tolerance=442)
    stats = audit_labels(source)
    assert not stats.problems
    assert stats.warnings[0].fraction == pytest.approx(altered.mean())
    assert (source[0]["label"] == TRAIN_IDS).mean() > 0.85
    (warning,) = report_labels(stats, config, "val", trains=True).warnings
    assert "2 records" in warning and "alters colors" in warning


def test_labels_that_are_all_ignored(source_of):
    source, config = source_of({"a.png": png(np.full_like(MASK, 255), RGB)}, **COLORS)
    (problem,) = report_labels(audit_labels(source), config, "val", trains=True).problems
    assert "no pixel" in problem


def test_a_mask_with_a_row_less_than_its_image(source_of):
    source, _ = source_of({"a.png": png(MASK[1:], RGB)}, **COLORS)
    with pytest.raises(DataError, match=r"a\.png is 40x24 but .*a\.png is 40x23"):
        source[0]
