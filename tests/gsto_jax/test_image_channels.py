"""Images of other channels than RGB: gray, alpha as a channel, TIFFs of many bands."""

import io
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from gsto_jax import UserError
from gsto_jax.drawing.tiles import as_rgb
from gsto_jax.image_files import DecodeOptions, ImageError, decode, to_pixels
from gsto_jax.image_files import channels as channel_files
from gsto_jax.predict.media import load_pixels
from tests.image_bytes import GRAY, GRAY_ALPHA, RGB, RGBA, UNDO, chunk, exif, png, tiff

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 2**16, (20, 31, 9)).astype("<u2")
DEEP[:, :10, 3], DEEP[:, 10:, 3] = 0, 65535
BYTES = (DEEP >> 8).astype(np.uint8)


def read(data, channels, **options):
    return decode(data, DecodeOptions(channels=channels, **options)).pixels


def bands(values, **options):
    """Encodes bands `h w c` as a TIFF, interleaved unless `planarconfig` says otherwise."""
    options = {"photometric": "minisblack", "planarconfig": "contig"} | options
    stored = values if options["planarconfig"] == "contig" else np.moveaxis(values, 2, 0)
    file = io.BytesIO()
    tifffile.imwrite(file, np.ascontiguousarray(stored), **options)
    return file.getvalue()


def test_gray_files_have_one_channel():
    gray, gray16 = BYTES[..., 0], DEEP[..., 0].copy()
    jpeg = io.BytesIO()
    Image.fromarray(gray).save(jpeg, "JPEG", quality=95)
    expected = np.array(Image.open(jpeg))[..., None]
    np.testing.assert_array_equal(read(jpeg.getvalue(), 1), expected)
    for data in (png(gray, GRAY), png(gray16, GRAY, 16), tiff(gray.copy()), tiff(gray16)):
        np.testing.assert_array_equal(read(data, 1), gray[..., None])
        np.testing.assert_array_equal(read(data, 3), np.repeat(gray[..., None], 3, 2))
    white_is_zero = tiff(65535 - gray16, photometric=0)
    np.testing.assert_array_equal(read(white_is_zero, 1), gray[..., None])
    ranged = read(tiff(gray.astype("<f4") / 100), 1, value_range=(0, 2.55))
    np.testing.assert_array_equal(ranged, gray[..., None])


def test_alpha_is_a_channel_except_of_gray():
    pair = BYTES[..., [0, 3]]
    for data in (png(pair, GRAY_ALPHA), png(DEEP[..., [0, 3]], GRAY_ALPHA, 16)):
        np.testing.assert_array_equal(read(data, 2), pair)
        for alpha, background in (("white", 255), ("black", 0)):
            composed = np.where(pair[..., 1:] == 0, background, pair[..., :1])
            np.testing.assert_array_equal(read(data, 1, alpha=alpha), composed)
    for data in (png(BYTES[..., :4], RGBA), png(DEEP[..., :4], RGBA, 16)):
        np.testing.assert_array_equal(read(data, 4), BYTES[..., :4])
    key = chunk(b"tRNS", bytes([0, BYTES[0, 0, 0]]))
    keyed = read(png(BYTES[..., 0], GRAY, before=key), 2)
    np.testing.assert_array_equal(keyed[..., 1] == 0, BYTES[..., 0] == BYTES[0, 0, 0])


@pytest.mark.parametrize("channels", [2, 4, 8, 9])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"planarconfig": "separate"},
        {"compression": "zlib", "predictor": 2},
        {"tile": (16, 16), "bigtiff": True},
        {"byteorder": ">"},
    ],
)
def test_bands_round_trip(channels, options):
    deep = DEEP[..., :channels]
    expected = deep >> 8
    np.testing.assert_array_equal(read(bands(deep, **options), channels), expected)
    np.testing.assert_array_equal(
        read(bands(expected.astype(np.uint8), **options), channels), expected
    )
    options = {name: value for name, value in options.items() if name != "predictor"}
    scaled = read(
        bands(deep.astype("<f4") / 65536, **options), channels, value_range=(0, 255 / 256)
    )
    np.testing.assert_allclose(scaled.astype(int), expected, atol=1)


def test_bands_in_pages_and_with_an_orientation():
    pages = np.moveaxis(BYTES[..., :5], 2, 0)
    file = io.BytesIO()
    tifffile.imwrite(file, pages, photometric="minisblack")
    np.testing.assert_array_equal(read(file.getvalue(), 5), BYTES[..., :5])
    for orientation, undo in UNDO.items():
        stored = undo(DEEP[..., :5])
        data = bands(stored, extratags=[(274, 3, 1, orientation, True)])
        np.testing.assert_array_equal(read(data, 5), BYTES[..., :5], err_msg=orientation)
        np.testing.assert_array_equal(read(data, 5, orientation="stored"), stored >> 8)
    turned = png(np.rot90(BYTES[..., :4]), RGBA, before=chunk(b"eXIf", exif(6)))
    np.testing.assert_array_equal(read(turned, 4), BYTES[..., :4])


def test_other_numbers_of_channels():
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(cmyk, "TIFF")
    for data, channels, count in (
        (png(BYTES[..., :3], RGB), 1, 3),
        (png(BYTES[..., :3], RGB), 4, 3),
        (png(BYTES[..., :4], RGBA), 5, 4),
        (bands(BYTES), 8, 9),
        (tiff(BYTES[..., 0].copy()), 5, 1),
        (tiff(DEEP[..., :3].copy()), 1, 3),
    ):
        with pytest.raises(ImageError, match=f"{channels} channels?; got {count}"):
            read(data, channels)
    with pytest.raises(ImageError, match="CMYK"):
        read(cmyk.getvalue(), 4)
    with pytest.raises(ImageError, match="channels=5"):
        read(bands(BYTES[..., :5]), 3)


def test_damaged_bands():
    values = DEEP[..., :5].astype("<f4")
    values[3, 4, 2] = np.nan
    with pytest.raises(ImageError, match="1 of its 3100 values are NaN"):
        read(bands(values), 5, value_range=(0, 1))
    with pytest.raises(ImageError, match="value_range"):
        read(bands(DEEP[..., :5].astype("<f4")), 5)
    with pytest.raises(ImageError, match="must be integers or floating-point"):
        read(bands(DEEP[..., :5].astype("<c8")), 5)
    for options in ({}, {"compression": "zlib"}, {"planarconfig": "separate"}):
        data = bands(DEEP[..., :5], **options)
        for length in (len(data) // 2, len(data) - 40):
            with pytest.raises(ImageError):
                read(data[:length], 5)
    huge = bytearray(bands(BYTES[:4, :4, :5]))
    with tifffile.TiffFile(io.BytesIO(bytes(huge))) as file:
        offset = file.pages[0].tags["ImageWidth"].valueoffset
    huge[offset : offset + 4] = (2**26).to_bytes(4, "little")
    with pytest.raises(ImageError, match="too large"):
        read(bytes(huge), 5)


def rasterio_bands(values, pages=False, **options):
    """Writes a TIFF of `h w c` by GDAL, bands as samples or as a page each."""
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    height, width, count = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "dtype": values.dtype}
    profile |= {"photometric": "minisblack", **options}
    with warnings.catch_warnings(), rasterio.MemoryFile() as file:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        if pages:
            for n in range(count):
                profile |= {"count": 1, "append_subdataset": n > 0}
                with rasterio.open(file.name, "w", **profile) as dataset:
                    dataset.write(values[..., n], 1)
        else:
            with file.open(**profile, count=count) as dataset:
                dataset.write(np.moveaxis(values, 2, 0))
        return file.read()


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (BYTES, {"compress": "lzw"}),
        (BYTES, {"compress": "lzw", "interleave": "band", "predictor": 2}),
        (BYTES[..., :2], {"compress": "packbits"}),
        (DEEP, {"compress": "lzw", "predictor": 2, "tiled": True, "blockxsize": 16}),
        (DEEP[..., :5].astype(np.float32), {"compress": "zstd", "predictor": 3}),
        (DEEP[..., :4].astype(np.int32), {"compress": "lzma"}),
        (BYTES[..., :5], {"compress": "lzw", "pages": True}),
    ],
)
def test_compressions_without_a_codec_of_tifffile(values, options):
    options = {"blockysize": 16} | options if "tiled" in options else options
    data, channels = rasterio_bands(values, **options), values.shape[2]
    limits = {} if values.dtype in (np.uint8, np.uint16) else {"value_range": (0.0, 65535.0)}
    expected = read(bands(values), channels, **limits)
    np.testing.assert_array_equal(read(data, channels, **limits), expected)
    with pytest.raises(ImageError):
        read(data[: len(data) // 2], channels, **limits)


def test_compressions_without_rasterio(monkeypatch):
    file = io.BytesIO()
    Image.fromarray(BYTES[..., :4]).save(file, "TIFF", compression="tiff_lzw")
    data = file.getvalue()
    np.testing.assert_array_equal(read(data, 4), BYTES[..., :4])  # by Pillow
    photometric = data.replace(b"\x06\x01\x03\0\x01\0\0\0\x02", b"\x06\x01\x03\0\x01\0\0\0\x01")
    monkeypatch.setattr(channel_files, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"LZW.* needs another package: .*geo.* deflate"):
        read(photometric, 4)


def test_arrays():
    options = DecodeOptions(channels=5)
    np.testing.assert_array_equal(to_pixels(BYTES[..., :5], options), BYTES[..., :5])
    np.testing.assert_array_equal(to_pixels(DEEP[..., :5], options), BYTES[..., :5])
    gray = to_pixels(BYTES[..., 0], DecodeOptions(channels=1))
    np.testing.assert_array_equal(gray, BYTES[..., :1])
    turned = np.rot90(BYTES[..., [0, 3]])
    pillow = Image.open(io.BytesIO(png(turned, GRAY_ALPHA, before=chunk(b"eXIf", exif(6)))))
    np.testing.assert_array_equal(to_pixels(pillow, DecodeOptions(channels=2)), BYTES[..., [0, 3]])
    gray = to_pixels(pillow, DecodeOptions(channels=1, alpha="drop"))
    np.testing.assert_array_equal(gray, BYTES[..., :1])
    gray = to_pixels(Image.fromarray(DEEP[..., 0]), DecodeOptions(channels=1))
    np.testing.assert_array_equal(gray, BYTES[..., :1])
    with pytest.raises(ImageError, match="got 3"):
        to_pixels(Image.fromarray(BYTES[..., 0]).convert("P"), DecodeOptions(channels=1))
    with pytest.raises(UserError, match="h w 5"):
        load_pixels(BYTES[..., :3], options)


def test_images_are_drawn_as_rgb():
    np.testing.assert_array_equal(as_rgb(BYTES[..., :3]), BYTES[..., :3])
    np.testing.assert_array_equal(as_rgb(BYTES), BYTES[..., :3])
    for count in (1, 2):
        np.testing.assert_array_equal(as_rgb(BYTES[..., :count]), BYTES[..., [0, 0, 0]])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 0),
        ("channels", 17),
        ("channels", 1.0),
        ("value_range", (1, 1)),
        ("value_range", (0, 1, 2)),
        ("value_range", (float("nan"), 1)),
    ],
)
def test_invalid_options(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        DecodeOptions(**{field: value})


def test_range_and_bits_exclude_each_other():
    with pytest.raises(ValueError, match="value_range"):
        DecodeOptions(value_range=(0, 1), bit_depth=12)
