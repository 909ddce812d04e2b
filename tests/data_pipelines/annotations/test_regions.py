"""Shapes as sets of pixels: COCO's polygons and run lengths, labelme's circles and masks."""

import base64

import cv2
import numpy as np
import pycocotools.mask as coco_masks
import pytest

from data_pipelines import DataError
from data_pipelines.annotations import Shape
from data_pipelines.annotations.regions import decode_counts, rasterize
from tests.data_pipelines.annotation_files import segmentation

SIZE = (20, 30)


def pixels(kind, geometry, size=SIZE):
    """Returns the pixels of a shape as bool `h w`."""
    columns = np.zeros(size[0] * size[1], np.uint8)
    region = rasterize(Shape("a", kind, geometry, "a.json"), size)
    region.fill(columns, 1)
    assert region.area == columns.sum()
    return columns.reshape(size[1], size[0]).T.astype(bool)


def random_polygons(rng, count):
    for _ in range(count):
        points = rng.integers(3, 9)
        spread = rng.choice([10, 30, 200])
        yield np.round(rng.normal((15, 10), spread, (points, 2)), rng.integers(0, 3)).ravel()


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with NumPy 2
def test_polygons_equal_pycocotools():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        polygons = [polygon.tolist() for polygon in random_polygons(rng, rng.integers(1, 4))]
        expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, *SIZE)))
        np.testing.assert_array_equal(pixels("polygons", polygons), expected.astype(bool))
        covered += expected.any()
    assert covered > 80


def test_an_outline_runs_between_pixels():
    expected = np.mgrid[3:5, 2:7].reshape(2, -1)
    drawn = pixels("polygons", [[2, 3, 7, 3, 7, 5, 2, 5]])
    np.testing.assert_array_equal(drawn.nonzero(), expected)


def test_polygons_that_cross_themselves_are_filled_by_the_even_odd_rule():
    square = [4, 4, 24, 4, 24, 16, 4, 16]
    assert not pixels("polygons", [square * 2]).any()
    turned = np.deg2rad(-90 + 144 * np.arange(5))
    star = np.stack([15 + 9 * np.cos(turned), 10 + 9 * np.sin(turned)], 1).ravel().tolist()
    drawn = pixels("polygons", [star])
    assert drawn.any()
    assert not drawn[8:12, 13:17].any()


def test_polygons_are_cut_off_at_the_border():
    polygon = np.array([-8.0, 5, 12, -6, 40, 12, 17, 31, 3, 9])
    shifted = (polygon.reshape(-1, 2) + 50).ravel().tolist()
    large = pixels("polygons", [shifted], (120, 130))
    drawn = pixels("polygons", [polygon.tolist()])
    # COCO's mask API rounds coordinates towards zero, so those below it may differ by a fifth.
    assert (drawn != large[50:70, 50:80]).mean() < 0.01
    assert not pixels("polygons", [[-9, -9, -1, -9, -1, -1, -9, -1]]).any()


@pytest.mark.parametrize("kind", ["rle", "counts"])
def test_run_lengths(kind):
    rng = np.random.default_rng(2)
    masks = [cv2.blur(rng.random(SIZE), (3, 3)) > limit for limit in (0.3, 0.5, 0.6)]
    for mask in (*masks, np.zeros(SIZE, bool), np.ones(SIZE, bool)):
        np.testing.assert_array_equal(pixels("rle", segmentation(mask, kind)), mask)


def test_compressed_run_lengths():
    mask = np.random.default_rng(3).random((300, 200)) > 0.999
    compressed, plain = (segmentation(mask, kind)["counts"] for kind in ("rle", "counts"))
    assert decode_counts(compressed.encode()) == plain


@pytest.mark.parametrize("disk", [(15, 10, 6.3), (0.5, 3, 9), (29, 25, 12), (-50, 4, 20)])
def test_circles_hold_the_pixels_whose_centers_are_inside(disk):
    x, y, radius = disk
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    expected = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    np.testing.assert_array_equal(pixels("disk", disk), expected)


@pytest.mark.parametrize("corner", [(4, 3), (-2, -3), (27, 18), (90, 2), (3, -50)])
def test_masks_of_labelme(corner):
    x, y = corner
    bitmap = np.random.default_rng(4).random((6, 9)) > 0.4
    png = base64.b64encode(cv2.imencode(".png", bitmap * 255)[1].tobytes()).decode()
    expected = np.zeros((200, 300), bool)
    expected[y + 100 : y + 106, x + 100 : x + 109] = bitmap
    np.testing.assert_array_equal(
        pixels("bitmap", (x, y, png)), expected[100 : 100 + SIZE[0], 100 : 100 + SIZE[1]]
    )


def test_polygons_of_fewer_than_three_points_are_empty():
    assert not pixels("polygons", [[], [1, 2], [3, 4, 9, 9]]).any()
    assert pixels("polygons", [[3, 4, 9, 9], [0, 0, 5, 0, 5, 5]]).any()


@pytest.mark.parametrize(
    ("kind", "geometry", "expected"),
    [
        ("polygons", [[0, 0, 5, 0, 5]], "x, y of each point"),
        ("polygons", [[0, 0, 5, "0", 5, 5]], "x, y of each point"),
        ("polygons", [[0, 0, 5, float("nan"), 5, 5]], "x, y of each point"),
        ("polygons", [[0, 0, 1e300, 0, 5, 5]], "within"),
        ("polygons", [[0, 0, 1e308, 0, -1e308, 5]], "within"),
        ("polygons", [[0, 0, 9e5, 0] * 3], "outline"),
        ("rle", {"size": [30, 20], "counts": [600]}, "size of the RLE"),
        ("rle", {"size": [20, 30]}, "counts"),
        ("rle", {"counts": [600]}, "size"),
        ("rle", {"size": [20, 30], "counts": [599]}, "600 pixels"),
        ("rle", {"size": [20, 30], "counts": [601, -1]}, "600 pixels"),
        ("rle", {"size": [20, 30], "counts": [300.0, 300]}, "integers"),
        ("rle", {"size": [20, 30], "counts": "ä"}, "counts"),
        ("rle", {"size": [20, 30], "counts": "h" * 10}, "counts"),
        ("rle", {"size": [20, 30], "counts": "o" * 100_000}, "counts"),
        ("rle", {"size": [20, 30], "counts": "h"}, "within a number"),
        ("disk", (0, 0, 1e300), "circle"),
        ("bitmap", (0, 0, "?"), "mask"),
        ("bitmap", (0, 0, "\ud800"), "mask"),
        ("bitmap", (0, 0, base64.b64encode(b"no image").decode()), "mask"),
    ],
)
def test_malformed_shapes_are_named(kind, geometry, expected):
    with pytest.raises(DataError, match=rf"a\.json: .*{expected}"):
        pixels(kind, geometry)
