"""Images with EXIF orientation, gray, alpha, 16 bits, and damaged files."""

import cv2
import numpy as np
import pytest
from PIL import Image

from gsto_jax import UserError
from gsto_jax.image_files import DecodeOptions
from gsto_jax.predict.media import (
    count_frames,
    load_pixels,
    read_image,
    read_image_header,
    video_frames,
)
from tests.image_bytes import UNDO

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (20, 31, 3), np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(UNDO[orientation](IMAGE))).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), IMAGE)
    assert read_image_header(path).oriented_size(DecodeOptions()) == (20, 31)


def test_gray_palette_and_16_bits(tmp_path):
    gray = IMAGE[..., 0]
    three = np.repeat(gray[..., None], 3, -1)
    for name, image in (
        ("gray.png", Image.fromarray(gray)),
        ("palette.gif", Image.fromarray(gray).convert("P")),
        ("deep.png", Image.fromarray(gray.astype(np.uint16) * 257)),
        ("deep.tif", Image.fromarray(gray.astype(np.uint16) * 257)),
        ("int.tif", Image.fromarray(gray.astype(np.int32))),
        ("float255.tif", Image.fromarray(gray.astype(np.float32))),
    ):
        image.save(tmp_path / name)
        if name in ("int.tif", "float255.tif"):
            with pytest.raises(UserError, match=f"{name}.* value_range"):
                read_image(tmp_path / name)
            pixels = read_image(tmp_path / name, DecodeOptions(value_range=(0, 255)))
            np.testing.assert_array_equal(pixels, three)
            continue
        np.testing.assert_allclose(read_image(tmp_path / name), three, atol=1, err_msg=name)
    Image.fromarray(gray > 127).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), (three > 127) * 255)


def test_transparent_pixels_are_white(tmp_path):
    alpha = np.zeros((20, 31), np.uint8)
    alpha[:, 10:20], alpha[:, 20:] = 128, 255
    Image.fromarray(np.dstack([IMAGE, alpha])).save(tmp_path / "x.png")
    result = read_image(tmp_path / "x.png")
    assert (result[:, :10] == 255).all()
    np.testing.assert_array_equal(result[:, 20:], IMAGE[:, 20:])
    half = IMAGE[:, 10:20] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(result[:, 10:20], half, atol=0.51)


def test_arrays():
    gray = IMAGE[..., 0]
    np.testing.assert_array_equal(load_pixels(IMAGE), IMAGE)
    for shaped in (gray, gray[..., None], gray.astype(np.uint16) * 257):
        np.testing.assert_array_equal(load_pixels(shaped), np.repeat(gray[..., None], 3, -1))
    for odd, message in (
        (np.zeros((4, 4, 2), np.uint8), "got (4, 4, 2)"),
        (np.zeros((0, 4, 3), np.uint8), "got (0, 4, 3)"),
        (np.zeros((4, 4, 3)), "got float64"),
    ):
        with pytest.raises(UserError) as error:
            load_pixels(odd)
        assert message in str(error.value)


def test_unreadable_files(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(IMAGE).save(whole)
    for name, content in (
        ("empty.jpg", b""),
        ("text.png", b"no image"),
        ("cut.jpg", whole.read_bytes()[:-40]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: it is truncated or not an image"):
            read_image(tmp_path / name)
    for value, reason in ((np.nan, "NaN"), (-1, r"0\.\.65535"), (1e6, r"0\.\.65535")):
        Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "odd.tif")
        with pytest.raises(UserError, match=f"odd.tif: .*{reason}"):
            read_image(tmp_path / "odd.tif", DecodeOptions(bit_depth=16))
    with pytest.raises(UserError, match=r"cannot read .*none.jpg: No such file"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "text.mp4").write_bytes(b"no film")
    for name in ("text.mp4", "none.mp4"):
        with pytest.raises(UserError, match=f"cannot read .*{name}: it is damaged or not a video"):
            count_frames(tmp_path / name)


def test_video(tmp_path):
    path = tmp_path / "film.mp4"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (64, 48))
    for gray in (40, 120, 200):
        film.write(np.full((48, 64, 3), (gray, 30, 30), np.uint8))
    film.release()
    assert count_frames(path) == (3, 12.0)
    frames = list(video_frames(path))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    for frame, gray in zip(frames, (40, 120, 200), strict=True):
        np.testing.assert_allclose(frame.mean((0, 1)), (30, 30, gray), atol=6)
