"""Random scale, crop and flip: one geometric decision, applied to everything in the picture."""

from dataclasses import dataclass
from typing import Any

import cv2
import grain
import numpy as np


@dataclass(frozen=True)
class Placement:
    """Where the picture goes: resize, mirror, then take a window; nothing here is random.

    Attributes:
        height, width: the picture's size after resizing.
        top, left: the window's corner in the resized (and mirrored) picture.
        flip: whether the resized picture is mirrored left to right.
    """

    height: int
    width: int
    top: int
    left: int
    flip: bool

    def window(
        self, pixels: np.ndarray, crop: tuple[int, int], fill: int, interpolation: int
    ) -> np.ndarray:
        """Applies the decision to an array `h w` or `h w c`.

        Args:
            pixels: the picture or its label.
            crop: (h, w) of the window.
            fill: the value right of and below the picture, where the window is larger.
            interpolation: an OpenCV flag.

        Returns:
            An array of the window's size and the dtype of `pixels`.
        """
        if pixels.shape[:2] != (self.height, self.width):
            pixels = cv2.resize(pixels, (self.width, self.height), interpolation=interpolation)
        if self.flip:
            pixels = pixels[:, ::-1]
        pixels = pixels[self.top : self.top + crop[0], self.left : self.left + crop[1]]
        out = np.full((*crop, *pixels.shape[2:]), fill, pixels.dtype)
        out[: pixels.shape[0], : pixels.shape[1]] = pixels
        return out

    def valid_size(self, crop: tuple[int, int]) -> tuple[int, int]:
        """Returns how many rows and columns of the window the picture fills."""
        return min(self.height, crop[0]), min(self.width, crop[1])


@dataclass(frozen=True, kw_only=True)
class RandomScaleCropFlip(grain.transforms.RandomMap):
    """Random scale, crop and mirror image of a picture and its label.

    The long side becomes `int(base * scale + 0.5)` with scale = scale_min + scale_step * k and k
    uniform in 0 .. scale_count - 1; the other side follows in proportion.

    Attributes:
        crop: (h, w) of the result.
        base_size: the long side at scale 1; 0 stands for the picture's own.
        scale_min, scale_step, scale_count: the set of scales.
        flip: whether half of the pictures are mirrored.
        ignore_label: the label of pixels outside the picture.
    """

    crop: tuple[int, int]
    base_size: int = 0
    scale_min: float = 0.5
    scale_step: float = 0.1
    scale_count: int = 17
    flip: bool = True
    ignore_label: int = 255

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Placement:
        """Draws the decision for a picture of the given (h, w)."""
        scale = self.scale_min + self.scale_step * int(rng.integers(self.scale_count))
        long_side = max(size)
        target = int((self.base_size or long_side) * scale + 0.5)
        height, width = (max(1, int(side * target / long_side + 0.5)) for side in size)
        return Placement(
            height=height,
            width=width,
            top=int(rng.integers(max(0, height - self.crop[0]) + 1)),
            left=int(rng.integers(max(0, width - self.crop[1]) + 1)),
            flip=self.flip and bool(rng.integers(2)),
        )

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Transforms one element of a source.

        Args:
            element: image `h w 3` uint8, label `h w` uint8, index int.
            rng: the source of all randomness.

        Returns:
            image `crop 3` uint8, 0 outside the picture; label `crop` uint8, `ignore_label` there;
            size int32 (2,): the rows and columns that the picture fills; index int32.
        """
        image, label = element["image"], element["label"]
        place = self.draw(image.shape[:2], rng)
        return {
            "image": place.window(image, self.crop, 0, cv2.INTER_LINEAR),
            # Samples pixel corners, half a pixel off the image, as the published recipe does.
            "label": place.window(label, self.crop, self.ignore_label, cv2.INTER_NEAREST),
            "size": np.array(place.valid_size(self.crop), np.int32),
            "index": np.int32(element["index"]),
        }
