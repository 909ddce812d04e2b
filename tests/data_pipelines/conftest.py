"""Image folders and small configs for the data tests."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipelines import SCENES, DataConfig
from tests.data_pipelines.tiny_source import TinySource
from tests.image_bytes import chunk


def write_png(path: Path, samples: np.ndarray, depth: int = 8, palette: bool = False) -> None:
    """Writes `h w` samples as a gray or palette PNG of 1 to 16 bits, without OpenCV."""

    height, width = samples.shape
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, 3 if palette else 0, 0, 0, 0)
    colors = np.random.default_rng(0).integers(0, 256, 3 * 2 ** min(depth, 8), np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"PLTE", colors) + chunk(b"tRNS", b"\x00") if palette else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\x00" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


def write_image(path: Path, rgb: np.ndarray) -> None:
    """Writes `h w 3` RGB or `h w` gray through OpenCV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1] if rgb.ndim == 3 else rgb)


def folder_config(root: Path, /, **changes: Any) -> DataConfig:
    """A config of three classes for a Cityscapes-like tree under root."""
    fields: dict[str, Any] = {
        "source": "folder",
        "root": str(root),
        "images": "images/{split}",
        "labels": "labels/{split}",
        "image_suffix": "_img.png",
        "label_suffix": "_ids.png",
        "classes": ("a", "b", "c"),
        "palette": ((0, 0, 0), (1, 1, 1), (2, 2, 2)),
        "crop": (4, 6),
    }
    return DataConfig(**fields | changes)


def scenes_config(**changes: Any) -> DataConfig:
    """A config of small synthetic scenes."""
    fields: dict[str, Any] = {
        "source": "scenes",
        "train_size": 10,
        "eval_size": 5,
        "image_size": (32, 48),
        "classes": SCENES.names,
        "palette": SCENES.palette,
        "crop": (24, 32),
    }
    return DataConfig(**fields | changes)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two cities, three images of 4x6 pixels in split `val`; labels hold 0, 1, 2 and 255."""
    rng = np.random.default_rng(0)
    for name in ("x/one", "x/two", "y/three"):
        write_image(tmp_path / f"images/val/{name}_img.png", rng.integers(0, 256, (4, 6, 3)))
        label = rng.choice([0, 1, 2, 255], (4, 6))
        write_png(tmp_path / f"labels/val/{name}_ids.png", label)
    return tmp_path


@pytest.fixture
def tiny_source() -> Callable[..., TinySource]:
    return TinySource


@pytest.fixture
def make_png() -> Callable[..., None]:
    return write_png


@pytest.fixture
def make_image() -> Callable[..., None]:
    return write_image


@pytest.fixture
def make_folder_config() -> Callable[..., DataConfig]:
    return folder_config


@pytest.fixture
def make_scenes_config() -> Callable[..., DataConfig]:
    return scenes_config
