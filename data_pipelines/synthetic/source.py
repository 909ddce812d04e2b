"""Synthetic street scenes as a dataset that needs no files."""

import zlib
from functools import lru_cache
from typing import Any

import numpy as np

from data_pipelines.sources.stats import LabelStats, count_pixels
from data_pipelines.synthetic.street import render_street

_MAX_CACHED_PIXELS = 2**16


class SyntheticSource:
    """Random access to synthetic street scenes with the classes of `SCENES`.

    A scene depends only on the split's name, the seed and its index. Colors overlap between
    classes; shape, texture, position and context tell them apart. The last 1024 small images are
    cached, so arrays are read-only.

    Args:
      split: any name; no two splits share a scene.
      size: number of scenes.
      image_size: (h, w) in pixels.
      seed: seed of the scenes.

    Example:
      >>> SyntheticSource("train", 100, (128, 256))[7]["image"].shape
      (128, 256, 3)
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, split: str, size: int, image_size: tuple[int, int], seed: int = 0) -> None:
        self._split = split
        self._size = size
        self._image_size = image_size
        self._seed = seed

    def __len__(self) -> int:
        return self._size

    def name(self, index: int) -> str:
        """Returns the name under which results of a scene are saved."""
        return f"{self._split}_{index:06d}"

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of a scene."""
        return self._image_size

    def stored_bytes(self, index: int) -> int:
        """Returns 0: scenes are not stored."""
        return 0

    def inspect(self, index: int) -> LabelStats:
        """Returns the label statistics of a scene."""
        pixels = count_pixels(self[index]["label"])
        return LabelStats.from_record(self.name(index), pixels, file_ids=pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Renders a scene.

        Returns:
          image: `h w 3` uint8 RGB; label: `h w` uint8 train ids; index: int.

        Raises:
          IndexError: no such scene.
        """
        if not 0 <= index < self._size:
            raise IndexError(f"index must be in 0..{self._size - 1}; got {index}")
        height, width = self._image_size
        render = _render if height * width <= _MAX_CACHED_PIXELS else _render.__wrapped__
        image, label = render(self._seed, self._split, int(index), self._image_size)
        return {"image": image, "label": label, "index": int(index)}


# Rendering costs as much as a training step of a small network on the same image; larger images
# would fill the memory.
@lru_cache(maxsize=1024)
def _render(
    seed: int, split: str, index: int, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    image, label = render_street(rng, *image_size)
    image.flags.writeable = label.flags.writeable = False
    return image, label
