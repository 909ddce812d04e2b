"""PNGs decoded by kornia-rs, compared with OpenCV and Pillow bit for bit."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.files.images import decode_label
from gsto_jax.image_files import DecodeOptions, decode, decode_by_opencv, decode_png
from gsto_jax.image_files import png as png_module
from tests.image_bytes import GRAY, PALETTE, RGB, RGBA, chunk, png

pytest.importorskip("kornia_rs", reason="the extra png is not installed")

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (64, 96, 3), np.uint8)
SMOOTH = cv2.resize(NOISE[:9, :13], (96, 64), interpolation=cv2.INTER_CUBIC)
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
ADAM7 += ((1, 0, 2, 1),)
"""First row, first column, row step and column step of the passes of an interlaced PNG."""


def by_pillow(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def by_opencv(pixels, *settings):
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels, settings)[
        1
    ].tobytes()


def interlaced(pixels):
    height, width = pixels.shape[:2]
    color = RGB if pixels.ndim == 3 else GRAY
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 1)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


WRITERS = {
    "pillow": by_pillow,
    "pillow, optimized": lambda pixels: by_pillow(pixels, optimize=True),
    "opencv": by_opencv,
    "opencv, all filters": lambda x: by_opencv(
        x, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS
    ),
    "interlaced": interlaced,
    "gamma": lambda x: png(x, RGB if x.ndim == 3 else GRAY, before=chunk(b"gAMA", b"\0\0\xff\0")),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("pixels", [NOISE, SMOOTH, SMOOTH[:1, :1]], ids=["noise", "smooth", "dot"])
def test_pixels_are_those_of_opencv(monkeypatch, writer, pixels):
    color, gray = WRITERS[writer](pixels), WRITERS[writer](np.ascontiguousarray(pixels[..., 0]))
    rgb, ids = decode_png(color), decode_png(gray)
    np.testing.assert_array_equal(rgb, pixels, strict=True)
    np.testing.assert_array_equal(ids, pixels[..., :1], strict=True)
    bgr = decode_by_opencv(color, cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])
    options = DecodeOptions()
    results = decode(color).pixels, decode(gray).pixels, decode_label(gray, "gray", options)
    monkeypatch.setattr(png_module, "_decoder", lambda: None)  # as without kornia-rs
    assert decode_png(color) is None
    others = decode(color).pixels, decode(gray).pixels, decode_label(gray, "gray", options)
    for result, other in zip(results, others, strict=True):
        np.testing.assert_array_equal(result, other, strict=True)
        assert result.flags.writeable and result.flags.c_contiguous


def damaged(data, position):
    return data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        by_opencv(NOISE)[:2000],
        damaged(by_opencv(NOISE), 2000),
        png(NOISE, RGB, before=chunk(b"tRNS", bytes(6))),
        png(NOISE[..., 0], GRAY, before=chunk(b"tRNS", bytes(2))),
        png(NOISE, RGB, before=chunk(b"acTL", bytes(8))),
        png(NOISE[..., 0] % 3, PALETTE, before=chunk(b"PLTE", bytes(9))),
        png(RNG.integers(0, 256, (8, 8, 4), np.uint8), RGBA),
        png(NOISE.astype(np.uint16), RGB, 16),
        png(NOISE[..., 0] & 1, GRAY, 1),
        cv2.imencode(".jpg", NOISE)[1].tobytes(),
        b"\x89PNG\r\n\x1a\nIDAT",
        b"",
    ],
    ids=range(12),
)
def test_other_files_are_left_to_other_decoders(data):
    assert decode_png(data) is None
