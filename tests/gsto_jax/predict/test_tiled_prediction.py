"""Predictions in overlapping tiles."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from gsto_jax import UserError
from gsto_jax.image_files import DecodeOptions
from gsto_jax.predict import row_readers, segmentation, tile_plan
from gsto_jax.predict.outputs import MEASURES
from gsto_jax.predict.row_readers import ArrayRows, open_rows
from gsto_jax.predict.tile_plan import blend, plan_tiles
from tests.gsto_jax.small_network import PointwiseTask, image_of, make_predictor
from tests.image_bytes import RGB, chunk, exif, png

AXES = [
    *((1, 8, 4), (7, 8, 4), (8, 8, 4), (9, 8, 4), (9, 8, 0), (16, 8, 0), (12, 8, 4)),
    *((31, 12, 4), (33, 12, 4), (100, 16, 8)),
]


@pytest.mark.parametrize(("length", "side", "shared"), AXES)
def test_weights_add_up_to_one(length, side, shared):
    tiles = plan_tiles(length, side, shared, 4)
    total = np.zeros(length)
    for tile in tiles:
        assert 0 <= tile.start <= tile.first < tile.next <= tile.stop <= length
        assert tile.start % 4 == 0
        assert min(side, length) - 4 < tile.stop - tile.start == len(tile.weight) <= side
        total[tile.window] += tile.weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert [tile.next for tile in tiles[:-1]] == [tile.first for tile in tiles[1:]]
    assert (tiles[0].first, tiles[-1].next) == (0, length)
    assert all(tile.stop - tile.next == shared for tile in tiles[:-1])
    assert len(tiles) == max(1, -(-(length - shared) // (side - shared)))


@pytest.mark.parametrize(
    ("size", "strip_rows", "max_bytes"),
    [((5, 9), 8, 0), ((8, 31), 4, 2**20), ((50, 8), 3, 0), ((23, 41), 1, 64), ((23, 41), 8, 2**20)],
)
def test_blended_tiles_are_the_weighted_sum(size, strip_rows, max_bytes, monkeypatch):
    """Tiles with different values are summed by their weights, overlaps in memory or in a file."""
    monkeypatch.setattr(tile_plan, "MAX_OVERLAP_BYTES", max_bytes)
    rows, columns = (plan_tiles(length, 8, 4, 4) for length in size)
    rng = np.random.default_rng(0)
    total = np.zeros((*size, 2))

    def weighted(row, column):
        weight = row.weight[:, None, None] * column.weight[:, None]
        values = rng.normal(size=(*weight.shape[:2], 2)).astype(np.float32) * weight
        total[row.window, column.window] += values

        def read(start, stop):
            assert stop - start <= strip_rows
            return values[start:stop].copy()

        return read

    result = np.full((*size, 2), np.nan)
    blocks = blend(rows, columns, 2, weighted, strip_rows)
    for row in rows:
        finished = result[row.finished]
        while np.isnan(finished).any():
            column, strip, block = next(blocks)
            assert np.isnan(finished[strip, column.finished]).all(), "each pixel once"
            finished[strip, column.finished] = block
    assert not [*blocks]
    np.testing.assert_allclose(result, total, atol=1e-6)


def test_a_full_disk_is_named(monkeypatch, tmp_path):
    """The file of the overlap is allocated before anything is computed."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tile_plan, "MAX_OVERLAP_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    tiled = make_predictor(options={"tile": 64, "tile_overlap": 0.5})
    with pytest.raises(UserError, match=r"overlapping tiles .*No space left.*TMPDIR.*tile_overlap"):
        tiled(image_of((150, 64)))


@pytest.mark.parametrize("size", [(20, 90), (64, 64), (65, 100), (150, 33)])
@pytest.mark.parametrize("limit", [2**28, 1])
def test_tiles_of_a_pointwise_network_equal_the_whole(size, limit, monkeypatch):
    """So they do in strips of 32 rows, with the overlap in a file."""
    monkeypatch.setattr(tile_plan, "MAX_OVERLAP_BYTES", limit)
    monkeypatch.setattr(segmentation, "_STRIP_BYTES", limit)
    whole = make_predictor(task_kind=PointwiseTask)(image_of(size), measures=MEASURES)
    tiled = make_predictor(task_kind=PointwiseTask, options={"tile": 64})
    result = tiled(image_of(size), measures=MEASURES)
    np.testing.assert_array_equal(result.labels, whole.labels)
    np.testing.assert_array_equal(result.image, whole.image)
    for name in MEASURES:
        tolerance = 1e-3 if name == "probabilities" else 1e-5
        np.testing.assert_allclose(getattr(result, name), getattr(whole, name), atol=tolerance)


def test_tiles_differ_from_the_whole_only_at_their_borders():
    """Pixels that no tile's border reaches are equal, since the filter sees few pixels."""
    size, side, reach = (70, 200), 96, 8
    for overlap, evaluation in ((0.25, {}), (0.34, {"flip": True})):
        options = {"tile": side, "tile_overlap": overlap}
        whole = make_predictor(**evaluation)(image_of(size), measures=["confidence"])
        tiled = make_predictor(options=options, **evaluation)
        result = tiled(image_of(size), measures=["confidence"])
        exact = np.ones(size, bool)
        for axis, length in enumerate(size):
            for tile in plan_tiles(length, side, tiled.tile_shared, 32):
                for border in {tile.start, tile.stop} - {0, length}:
                    near = slice(max(0, border - reach), border + reach)
                    exact[near if axis == 0 else (slice(None), near)] = False
        assert exact.mean() > 0.3
        difference = np.abs(result.confidence - whole.confidence)
        assert difference[exact].max() < 1e-5 < difference.max()
        assert (result.labels == whole.labels)[exact].all()


def test_all_tiles_share_a_shape(monkeypatch):
    predictor = make_predictor(options={"tile": 50, "tile_overlap": 0.5})
    assert predictor.tile_side == 64, "a multiple of 32"
    shapes, score = [], type(predictor)._tile_scores

    def recorded(predictor, tile):
        shapes.append(tile.shape)
        return score(predictor, tile)

    monkeypatch.setattr(type(predictor), "_tile_scores", recorded)
    strips = list(predictor.predict_rows(ArrayRows(image_of((100, 130)))))
    assert {tuple(-(-n // 32) for n in shape[:2]) for shape in shapes} == {(2, 2)}
    assert [strip.labels.shape for strip in strips] == [(32, 130), (32, 130), (36, 130)]
    assert len(shapes) == 3 * 4
    assert all(strip.image.shape == (*strip.labels.shape, 3) for strip in strips)


@pytest.fixture
def small_limits(monkeypatch):
    """Images of more than 1000 pixels are read in rows."""
    monkeypatch.setattr(row_readers, "MAX_PIXELS", 1000)
    monkeypatch.setattr(row_readers, "MAX_TILED_PIXELS", 10000)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_rows_of_large_images_equal_the_decoded_image(tmp_path, small_limits, mode):
    image = Image.fromarray(image_of((60, 50))).convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path)
    expected = row_readers.read_image(path)
    with open_rows(path) as rows:
        assert rows.size == (60, 50)
        np.testing.assert_array_equal(rows.read(0, 60), expected)
        np.testing.assert_array_equal(rows.read(7, 19), expected[7:19])


def test_orientation_of_large_images(tmp_path, small_limits):
    path = tmp_path / "x.png"
    path.write_bytes(png(image_of((60, 50)), RGB, before=chunk(b"eXIf", exif(6))))
    for orientation in ("upright", "stored"):
        options = DecodeOptions(orientation=orientation)
        with open_rows(path, options) as rows:
            expected = row_readers.read_image(path, options)
            assert rows.size == expected.shape[:2]
            np.testing.assert_array_equal(rows.read(5, 9), expected[5:9])


def test_images_that_cannot_be_read_in_rows(tmp_path, small_limits, monkeypatch):
    monkeypatch.setattr(row_readers, "has_rasterio", lambda: False)
    Image.fromarray(image_of((200, 90))).save(tmp_path / "large.png")
    deep = image_of((60, 50)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(png(deep, RGB, 16))
    (tmp_path / "damaged.png").write_bytes((tmp_path / "large.png").read_bytes()[:200])
    monkeypatch.setattr(row_readers, "MAX_TILED_PIXELS", 15000)
    for name, message in (
        ("large.png", r"too large .*90x200.*\[geo\]"),
        ("deep.png", "too large .*8 bits"),
        ("nope.png", "No such file"),
    ):
        with pytest.raises(UserError, match=rf"{name}: .*{message}"), open_rows(tmp_path / name):
            pass
    monkeypatch.setattr(row_readers, "MAX_TILED_PIXELS", 50000)
    with pytest.raises(UserError, match=r"damaged\.png"), open_rows(tmp_path / "damaged.png"):
        pass
