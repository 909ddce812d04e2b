"""Crops an image that has a class, and decodes no more of it than the crop needs."""

import math
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from data_pipelines.files.encoded import EncodedImage
from gsto_jax.image_files import center_box

_MAX_DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(grain.transforms.RandomMap):
    """Resizes a random box of an image, and flips it (Inception's crop, as in HRNet-C's recipe).

    A box that does not fit into the image is drawn again, up to ten times; then it is the largest
    one at the center whose aspect ratio is in range.

    Attributes:
      crop: (h, w) of the result in pixels.
      area: range of the fraction of the image's area.
      aspect: range of width / height of the box, relative to that of the result.
      flip: flips left to right with probability 0.5.
    """

    crop: tuple[int, int]
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Crops an example of a source of images with classes.

        Returns:
          image `crop 3` uint8; label int32; index int32; augment_seed uint32.
        """
        encoded: EncodedImage = element["image"]
        image = encoded.crop(self.draw_box(encoded.size, rng), self.crop)
        if self.flip and rng.integers(2):
            image = np.ascontiguousarray(image[:, ::-1])
        seed = np.uint32(rng.integers(2**32))
        return to_example(element, image) | {"augment_seed": seed}

    def draw_box(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[float, float, float, float]:
        """Draws left, top, right and bottom of a box in an image of size (h, w)."""
        height, width = size
        shape = self.crop[1] / self.crop[0]
        low, high = (shape * aspect for aspect in self.aspect)
        for _ in range(_MAX_DRAWS):
            area = height * width * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
            box_width, box_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if box_width <= width and box_height <= height:
                left = rng.uniform(0, width - box_width)
                top = rng.uniform(0, height - box_height)
                return left, top, left + box_width, top + box_height
        aspect = min(max(width / height, low), high)
        box_width = min(float(width), height * aspect)
        box_height = min(float(height), width / aspect)
        left, top = (width - box_width) / 2, (height - box_height) / 2
        return left, top, left + box_width, top + box_height


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """Resizes the box at the center of an image.

    Attributes:
      crop: (h, w) of the result in pixels.
      fraction: size of the box relative to the largest one of its shape.
    """

    crop: tuple[int, int]
    fraction: float = 0.875

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        """Crops an example: image `crop 3` uint8, label int32, index int32."""
        encoded: EncodedImage = element["image"]
        box = center_box(encoded.size, self.crop, self.fraction)
        return to_example(element, encoded.crop(box, self.crop))


def to_example(element: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
    """Returns the arrays of an example with its image."""
    return {
        "image": image,
        "label": np.int32(element["label"]),
        "index": np.int32(element["index"]),
    }
