"""Street images drawn on the fly: a dataset that needs no files."""

import zlib
from functools import lru_cache
from typing import Any

import numpy as np

from data_pipelines.sources.audit import Inspection, count_pixels
from data_pipelines.synthetic.street import draw_street

_KEPT_PIXELS = 2**16


class SyntheticSource:
    """Random access to drawn street images with the classes of `SCENES`.

    An image depends on the split's name, the seed and its index alone. Colors are drawn so that
    they overlap between classes: shape, texture, position and context tell them apart. The last
    thousand small images drawn are kept. The arrays are read-only.

    Args:
        split: any name; no two splits share an image.
        size: how many images there are.
        image_size: (h, w).
        seed: another seed, another set of images.

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
        """Returns a name to save results under."""
        return f"{self._split}_{index:06d}"

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of an image."""
        return self._image_size

    def inspect(self, index: int) -> Inspection:
        """Draws an image and tells what its label holds."""
        pixels = count_pixels(self[index]["label"])
        return Inspection(self.name(index), pixels, ids=pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draws an image.

        Returns:
            image: `h w 3` uint8 RGB; label: `h w` uint8 train ids; index: int.

        Raises:
            IndexError: there is no such image.
        """
        if not 0 <= index < self._size:
            raise IndexError(f"There is no image {index}; the split has {self._size}.")
        height, width = self._image_size
        draw = _draw if height * width <= _KEPT_PIXELS else _draw.__wrapped__
        image, label = draw(self._seed, self._split, int(index), self._image_size)
        return {"image": image, "label": label, "index": int(index)}


# Drawing costs as much as a small network's training step on the same image; larger images
# would fill the memory.
@lru_cache(maxsize=1024)
def _draw(
    seed: int, split: str, index: int, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    image, label = draw_street(rng, *image_size)
    image.flags.writeable = label.flags.writeable = False
    return image, label
