"""Tiles: round trip, rectangles, damage."""

import cv2
import numpy as np
import pytest

from data_pipelines import Tiles, encode_tiles
from data_pipelines.synthetic.street import render_street


def image(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 3), (128, 128, 3), (129, 257), (300, 70, 3), (5, 400, 4)])
def test_round_trip(shape):
    pixels = image(*shape)
    tiles = Tiles(encode_tiles(pixels))
    assert tiles.shape == shape
    np.testing.assert_array_equal(np.asarray(tiles), pixels)


@pytest.mark.parametrize("seed", range(30))
def test_any_rectangle(seed):
    draw = np.random.default_rng(seed)
    height, width = draw.integers(1, 150, 2)
    pixels = image(height, width, 3, seed=seed)
    tiles = Tiles(encode_tiles(pixels, tile_size=int(draw.integers(1, 60))))
    (top, bottom), (left, right) = np.sort(draw.integers(0, [[height], [width]], (2, 2)))
    where = (slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1))
    np.testing.assert_array_equal(tiles[where], pixels[where])


def test_rectangles_past_the_edge_are_cut():
    pixels = image(20, 30)
    np.testing.assert_array_equal(
        Tiles(encode_tiles(pixels, 8))[15:99, -4:99], pixels[15:99, -4:99]
    )
    assert Tiles(encode_tiles(pixels, 8))[5:5, 3:9].shape == (0, 6)


def test_only_overlapping_tiles_are_decoded():
    """A damaged tile is an error only if it is decoded."""
    pixels = image(64, 64, 3)
    data = bytearray(encode_tiles(pixels, 16))
    data[-20:] = bytes(20)
    tiles = Tiles(bytes(data))
    np.testing.assert_array_equal(tiles[:32, :], pixels[:32])
    with pytest.raises(ValueError, match="tile 15 "):
        tiles[:, :]


def test_damage():
    data = encode_tiles(image(40, 40))
    for broken, message in (
        (data[:-1], "truncated"),
        (data[:20], "truncated"),
        (data + b"x", "truncated"),
        (b"", "no tiles"),
        (b"\x89PNG" + data[4:], "no tiles"),
    ):
        with pytest.raises(ValueError, match=message):
            Tiles(broken)


def test_labels_take_few_bytes():
    label = np.repeat(np.repeat(image(4, 4), 64, axis=0), 64, axis=1)
    assert len(encode_tiles(label)) < label.size / 50


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2), np.uint16), np.zeros(4, np.uint8), np.zeros((0, 3), np.uint8)]
)
def test_pixels_that_cannot_be_stored(pixels):
    with pytest.raises(ValueError, match="pixels must be uint8"):
        encode_tiles(pixels)


@pytest.mark.parametrize("noise", [0.6, 1.5, 2.6])
def test_tiles_take_little_more_than_a_png(noise):
    """A scene with sensor noise: 1.4 to 3.3 bytes per pixel as PNG."""
    scene, _ = render_street(np.random.default_rng(0), 256, 512)
    smooth = cv2.GaussianBlur(cv2.resize(scene, (1024, 512)), (0, 0), 1.5)
    grain = np.random.default_rng(1).normal(0, noise, smooth.shape)
    pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    png = cv2.imencode(".png", pixels)[1]
    assert len(encode_tiles(pixels)) < 1.2 * len(png)
