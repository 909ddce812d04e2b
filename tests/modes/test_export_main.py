"""Images of `--mode=export --calibration`."""

from types import SimpleNamespace

import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.image_files import DecodeOptions
from modes.export import CALIBRATION_IMAGES, read_calibration
from tests.image_bytes import RGB, png


def image(value):
    return png(np.full((2, 3, 3), value, np.uint8), RGB)


def read(folder, channels=3):
    predictor = SimpleNamespace(decode_options=DecodeOptions(channels=channels))
    return read_calibration(predictor, str(folder), folder / "out")


def test_images_are_spread_over_the_folder(tmp_path):
    for n in range(2 * CALIBRATION_IMAGES):
        (tmp_path / f"{n:03}.png").write_bytes(image(n))
    values = [pixels[0, 0, 0] for pixels in read(tmp_path)]
    assert values == list(range(0, 2 * CALIBRATION_IMAGES, 2))


@pytest.mark.parametrize(
    ("files", "channels", "named"),
    [
        ({}, 3, ""),
        ({"a.txt": b"text"}, 3, ""),
        ({"a.mp4": b"video"}, 3, ""),
        ({"a.png": image(1), "b.png": b"damaged"}, 3, "/b.png"),
        ({"a.png": image(1)}, 5, "/a.png"),
    ],
)
def test_unusable_folders(tmp_path, files, channels, named):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^--calibration .*{tmp_path}{named}"):
        read(tmp_path, channels)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=rf"^--calibration .*{tmp_path}/missing"):
        read(tmp_path / "missing")
