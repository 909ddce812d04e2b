"""Decoding of image files of every format, with every option."""

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from gsto_jax import UserError
from gsto_jax.image_files import (
    DecodeOptions,
    ImageError,
    decode,
    exif_orientation,
    read_header,
    to_pixels,
)
from gsto_jax.predict.media import load_pixels
from tests.image_bytes import GRAY, GRAY_ALPHA, PALETTE, RGB, RGBA, UNDO, chunk, exif, png, tiff

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 2**16, (20, 31, 4)).astype("<u2")
DEEP[:, :10, 3], DEEP[:, 10:20, 3], DEEP[:, 20:, 3] = 0, 128 * 257, 65535
BYTES = (DEEP >> 8).astype(np.uint8)
COLORS, ALPHA = BYTES[..., :3], BYTES[..., 3]
GRAY_RGB = np.repeat(COLORS[..., :1], 3, axis=2)


def saved(image, form, **options):
    """Encodes an image with Pillow."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def composed(background, colors=COLORS, alpha=ALPHA):
    opacity = alpha[..., None].astype(np.float64) / 255
    return np.floor(colors * opacity + background * (1 - opacity) + 0.5).astype(np.uint8)


def read(data, **options):
    return decode(data, DecodeOptions(**options)).pixels


def paletted(**options):
    """A palette image whose colors 0 and 1 are transparent and half transparent."""
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) % 3, "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    return saved(image, "PNG", **options)


@pytest.mark.parametrize(
    ("data", "colors", "alpha"),
    [
        (png(BYTES, RGBA), COLORS, ALPHA),
        (png(BYTES[..., [0, 3]], GRAY_ALPHA), GRAY_RGB, ALPHA),
        (png(DEEP, RGBA, 16), COLORS, ALPHA),
        (png(DEEP[..., [0, 3]], GRAY_ALPHA, 16), GRAY_RGB, ALPHA),
        (tiff(BYTES.copy(), extra=2), COLORS, ALPHA),
        (tiff(DEEP, extra=2), COLORS, ALPHA),
        (saved(Image.fromarray(BYTES), "WEBP", lossless=True, exact=True), COLORS, ALPHA),
        (saved(Image.fromarray(BYTES), "TGA"), COLORS, ALPHA),
    ],
    ids=["rgba", "la", "rgba16", "la16", "tiff", "tiff16", "webp", "tga"],
)
def test_alpha(data, colors, alpha):
    np.testing.assert_array_equal(read(data, alpha="drop"), colors)
    for background, value in (("white", 255), ("black", 0)):
        np.testing.assert_array_equal(read(data, alpha=background), composed(value, colors, alpha))
    np.testing.assert_array_equal(read(data), read(data, alpha="white"))


def test_premultiplied_alpha():
    opacity = DEEP[..., 3:].astype(np.float64) / 65535
    data = tiff(np.dstack([DEEP[..., :3] * opacity, DEEP[..., 3]]).astype("<u2"), extra=1)
    np.testing.assert_allclose(read(data), composed(255).astype(float), atol=1)
    np.testing.assert_array_equal(read(tiff(DEEP, extra=0)), COLORS)  # the fourth is no alpha


def test_transparent_colors_of_palettes():
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    ids = np.arange(6).reshape(2, 3) % 3
    np.testing.assert_array_equal(read(paletted()), table[ids])
    for transparency, alpha in ((bytes([0, 128]), (0, 128, 255)), (1, (255, 0, 255))):
        data = paletted(transparency=transparency)
        expected = composed(255, table[ids], np.array(alpha)[ids])
        np.testing.assert_array_equal(read(data), expected)
        np.testing.assert_array_equal(read(data, alpha="drop"), table[ids])
    gif = saved(Image.open(io.BytesIO(paletted())), "GIF", transparency=2)
    np.testing.assert_array_equal(read(gif)[ids == 2], np.full((2, 3), 255))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_gray_value(depth):
    values = DEEP[..., 0] >> (16 - depth)
    key = int(values[3, 4])
    gray = values if depth == 8 else (values.astype(int) * 255 // (2**depth - 1))
    gray = (values >> 8) if depth == 16 else gray
    data = png(values, GRAY, depth, before=chunk(b"tRNS", key.to_bytes(2, "big")))
    expected = np.where(values == key, 255, gray)
    np.testing.assert_array_equal(read(data)[..., 1], expected)
    np.testing.assert_array_equal(read(data, alpha="drop")[..., 1], gray)


@pytest.mark.parametrize(("depth", "colors"), [(8, BYTES[..., :3]), (16, DEEP[..., :3])])
def test_a_transparent_color(depth, colors):
    key = b"".join(int(value).to_bytes(2, "big") for value in colors[3, 4])
    data = png(colors, RGB, depth, before=chunk(b"tRNS", key))
    expected = COLORS.copy()
    expected[(colors == colors[3, 4]).all(-1)] = 0
    np.testing.assert_array_equal(read(data, alpha="black"), expected)
    np.testing.assert_array_equal(read(data, alpha="drop"), COLORS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "late PNG", "WEBP", "AVIF", "TIFF", "deep TIFF"])
def test_orientation(form, orientation):
    smooth = cv2.resize(COLORS[::7, ::7], (16, 24), interpolation=cv2.INTER_LINEAR)
    stored = np.ascontiguousarray(UNDO[orientation](smooth))
    if form == "late PNG":
        data = png(stored, RGB, after=chunk(b"eXIf", exif(orientation)))
    elif form.endswith("TIFF"):
        values = stored.astype("<u2") * 257 if form == "deep TIFF" else stored
        data = tiff(values, orientation=orientation)
    else:
        options = {"lossless": True} if form == "WEBP" else {"quality": 100}
        options |= {"JPEG": {"subsampling": 0}, "AVIF": {"subsampling": "4:4:4"}}.get(form, {})
        tags = b"Exif\0\0" + exif(orientation, ">")
        data = saved(Image.fromarray(stored), form, exif=tags, **options)
    for decode_options, expected in (
        (DecodeOptions(), smooth),
        (DecodeOptions(orientation="stored"), stored),
    ):
        pixels = decode(data, decode_options).pixels
        np.testing.assert_allclose(pixels, expected.astype(float), atol=4)
        assert pixels.flags.c_contiguous
        assert read_header(data).oriented_size(decode_options) == expected.shape[:2]


def test_invalid_orientations():
    for data in (b"", b"Exif\0\0", b"II*\0\x08", exif(0), exif(9), exif(6)[:12], b"XX" + exif(6)):
        assert exif_orientation(data) == 1
    for order in "<>":
        for kind in (3, 4):
            assert exif_orientation(exif(6, order, kind)) == 6


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bit_depth(bits):
    """Gray and color, PNG and TIFF, of 16 and 32 bits, and arrays."""
    low = (DEEP >> (16 - bits)).astype("<u2")
    low[0, 0] = 2**bits - 1
    expected = (low >> (bits - 8)).astype(np.uint8)
    alpha = np.full_like(low[..., :1], 65535)  # is of the file's own range
    for data in (
        png(low[..., :3], RGB, 16),
        png(np.dstack([low[..., :3], alpha]), RGBA, 16),
        tiff(low[..., :3].copy()),
        tiff(low[..., :3].astype("<i4")),
        tiff(low[..., :3].astype("<f4")),
        b"P6 31 20 65535\n" + low[..., :3].astype(">u2").tobytes(),
    ):
        np.testing.assert_array_equal(read(data, bit_depth=bits), expected[..., :3])
    for data in (
        png(low[..., 0], GRAY, 16),
        tiff(low[..., 0].copy()),
        tiff((2**bits - 1 - low[..., 0]).astype("<u2"), photometric=0),
        tiff(low[..., 0].astype("<i4")),
        b"P5 31 20 65535\n" + low[..., 0].astype(">u2").tobytes(),
        saved(Image.fromarray(low[..., 0].copy()), "JPEG2000", irreversible=False),
    ):
        decoded = decode(data, DecodeOptions(bit_depth=bits))
        np.testing.assert_array_equal(decoded.pixels[..., 2], expected[..., 0])
        assert decoded.used_bits == bits
    options = DecodeOptions(bit_depth=bits)
    np.testing.assert_array_equal(to_pixels(low[..., :3], options), expected[..., :3])
    with_alpha = np.dstack([low[..., :3], alpha])
    np.testing.assert_array_equal(load_pixels(with_alpha, options), expected[..., :3])
    assert decode(png(low, RGBA, 16)).bits == 16
    if bits < 16:
        assert decode(png(low[..., 0], GRAY, 16)).used_bits == bits
    # Images of 8 bits and PPM files with a maxval ignore the bit depth.
    np.testing.assert_array_equal(read(png(COLORS, RGB), bit_depth=bits), COLORS)
    pgm = b"P5 31 20 1023\n" + (DEEP[..., 0] >> 6).astype(">u2").tobytes()
    np.testing.assert_allclose(read(pgm, bit_depth=bits)[..., 0], BYTES[..., 0], atol=1)


def test_values_beyond_the_bit_depth():
    for data in (png(DEEP, RGBA, 16), tiff(DEEP[..., 0].copy()), tiff(DEEP[..., :3].copy())):
        with pytest.raises(ImageError, match=r"0\.\.1023 .*bit_depth"):
            read(data, bit_depth=10)
    with pytest.raises(UserError, match="1023"):
        load_pixels(DEEP[..., :3], DecodeOptions(bit_depth=10))


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(COLORS), "PNG", exif=exif(6)),
        saved(Image.fromarray(COLORS), "JPEG", exif=exif(3)),
        saved(Image.fromarray(COLORS), "TIFF", tiffinfo={274: 5}),
        saved(Image.fromarray(COLORS).convert("CMYK"), "TIFF"),
        saved(Image.fromarray(COLORS).convert("LA"), "PNG"),
        saved(Image.fromarray(BYTES), "PNG", exif=exif(8)),
        paletted(transparency=bytes([0, 128])),
        paletted(),
        png(DEEP[..., 0], GRAY, 16),
        png(COLORS[..., 0] & 1, GRAY, 1),
    ],
)
def test_pillow_images_equal_their_files(data):
    for options in (DecodeOptions(), DecodeOptions(alpha="black")):
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(load_pixels(image, options), decode(data, options).pixels)


def test_floating_point_of_another_format():
    values = np.flipud(COLORS[..., 0]).astype("<f4") / 255
    data = b"Pf\n31 20\n-1.0\n" + values.tobytes()  # the last row comes first
    np.testing.assert_array_equal(read(data, value_range=(0, 1)), GRAY_RGB)


def test_integers_and_floats():
    """Float, signed and unsigned integers, gray and color, as 8-bit files."""
    for colors in (COLORS, COLORS[..., 0]):
        expected = COLORS if colors.ndim == 3 else GRAY_RGB
        for dtype in ("<f4", "<f8", "<i4", "<u4", "<i2"):
            values, options = colors.astype(dtype), {"bit_depth": 8}
            if values.dtype.kind == "f":
                low = read(tiff(values / 255), value_range=(0, 1))
                np.testing.assert_array_equal(low, expected, err_msg=dtype)
            np.testing.assert_array_equal(read(tiff(values), **options), expected, err_msg=dtype)
    deep = tiff(DEEP[..., :3].astype("<i4"))
    np.testing.assert_array_equal(read(deep, bit_depth=16), COLORS)


def test_range_of_values():
    """Values are scaled from the range and clipped, whatever the file's own extremes are."""
    values = np.array([[-3.0, 0.0, 1.0], [2.0, 3.0, 9.0]])
    expected = np.array([[0, 0, 85], [170, 255, 255]])
    for dtype in ("<f4", "<f8", "<i4", "<i2"):
        pixels = read(tiff(values.astype(dtype)), value_range=(0, 3))
        np.testing.assert_array_equal(pixels[..., 0], expected, err_msg=dtype)
    reflectance = np.array([[0, 5000, 10000, 30000]], "<u2")
    pixels = read(tiff(reflectance), value_range=(0, 10000))
    np.testing.assert_array_equal(pixels[..., 0], [[0, 128, 255, 255]])
    np.testing.assert_array_equal(read(png(COLORS, RGB), value_range=(50, 60)), COLORS)


def test_values_without_a_range():
    for values, reason in (
        (np.zeros((4, 4), "<f4"), "set value_range"),
        (np.zeros((4, 4, 3), "<i2"), "set value_range"),
        (np.full((4, 4), 70000, "<u4"), "set value_range"),
    ):
        with pytest.raises(ImageError, match=reason):
            read(tiff(values))
    for value in (np.nan, np.inf):
        with pytest.raises(ImageError, match="1 of its 16 values are NaN or infinite"):
            read(tiff(np.array([value, *range(15)], "<f4").reshape(4, 4)), value_range=(0, 1))
    with pytest.raises(ImageError, match="got -1 to -1"):
        read(tiff(np.full((4, 4, 3), -1, "<i4")), bit_depth=8)


def test_channels_that_are_not_rgb():
    for values, reason in (
        (np.zeros((4, 4, 3), "<f2"), "unsupported TIFF"),
        (np.zeros((4, 4, 2), "<u2"), "TIFF of 2 channels in 16 bits"),
        (np.zeros((4, 4, 5), np.uint8), "TIFF of 5 channels in 8 bits"),
    ):
        with pytest.raises(ImageError, match=reason):
            read(tiff(values))
    with pytest.raises(ImageError, match="planes of 16 bits"):
        read(tiff(DEEP[..., :3].copy(), planes=2))
    np.testing.assert_array_equal(read(tiff(COLORS.copy(), planes=2)), COLORS)


def test_animations_and_color_spaces():
    """Of several frames the first, palettes of few bits, one bit, CMYK as Pillow converts it."""
    first, second = Image.fromarray(COLORS), Image.fromarray(COLORS[::-1].copy())
    for form in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = saved(first, form, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(read(data), COLORS, err_msg=form)
    bits = BYTES[..., 0] > 127
    for data in (saved(Image.fromarray(bits), "PNG"), saved(Image.fromarray(bits), "TIFF")):
        np.testing.assert_array_equal(read(data)[..., 0], bits * 255)
    ids = BYTES[..., 0] % 4
    palette = chunk(b"PLTE", bytes(range(12)))
    expected = np.arange(12).reshape(4, 3)[ids]
    np.testing.assert_array_equal(read(png(ids, PALETTE, 2, before=palette)), expected)
    flat = Image.new("CMYK", (16, 16), (200, 30, 60, 20))
    for data in (saved(flat, "JPEG", quality=100), saved(flat, "TIFF")):
        np.testing.assert_array_equal(read(data)[3, 3], (51, 207, 180))


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 75, "subsampling": 2}),
        ("JPEG", {"quality": 60, "progressive": True}),
    ],
)
def test_8_bit_files_equal_opencv(form, options):
    """Keeps scores on published datasets unchanged."""
    large = cv2.resize(COLORS, (200, 150))
    for image in (large, large[..., 0]):
        data = saved(Image.fromarray(np.ascontiguousarray(image)), form, **options)
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(read(data), bgr[..., ::-1])


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_truncated_files(form, capfd):
    """The exception alone reports it: no C library prints to stderr."""
    data = saved(Image.fromarray(cv2.resize(COLORS, (200, 150))), form)
    for length in (0, 20, 100, len(data) // 2, len(data) - 40):
        with pytest.raises(ImageError, match="truncated"):
            read(data[:length])
    np.testing.assert_array_equal(read(data + b"more"), read(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", "gray"),
        ("orientation", "up"),
        ("bit_depth", 7),
        ("bit_depth", 12.0),
        ("bit_depth", True),
    ],
)
def test_invalid_options(field, value):
    with pytest.raises(ValueError, match=f"{field} .*got .*{value}"):
        DecodeOptions(**{field: value})


def test_header_of_a_large_image_prints_nothing(tmp_path):
    """12000 x 9000 pixels, the size of some phones' photos."""
    head = png(np.zeros((1, 1), np.uint8), GRAY)
    sizes = (12000).to_bytes(4, "big") + (9000).to_bytes(4, "big")
    body = b"IHDR" + sizes + head[24:29]
    (tmp_path / "x.png").write_bytes(head[:8] + chunk(body[:4], body[4:]) + head[33:])
    code = (
        "import sys; from pathlib import Path; from gsto_jax.image_files import read_header;"
        "print(read_header(Path(sys.argv[1])).size)"
    )
    command = [sys.executable, "-W", "always", "-c", code, str(tmp_path / "x.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("(9000, 12000)\n", "")
