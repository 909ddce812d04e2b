"""Random scale, crop and flip: one geometric decision, applied to everything in the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import grain
import numpy as np

from data_pipelines.sources.label_map import TrainIds


@dataclass(frozen=True)
class ResizeFlipCrop:
    """Where the image goes: resize, mirror, then take a window; nothing here is random.

    The window is sampled straight from the image: the cost is that of the window, whatever the
    image's size.

    Attributes:
        height, width: the image's size after resizing.
        top, left: the window's corner in the resized (and mirrored) image.
        flip: whether the resized image is mirrored left to right.
    """

    height: int
    width: int
    top: int
    left: int
    flip: bool

    def transform_image(self, image: Any, crop: tuple[int, int]) -> np.ndarray:
        """Applies the decision to an image by bilinear interpolation, as OpenCV's `resize` does.

        Args:
            image: `h w 3` uint8, an array or what can be sliced like one.
            crop: (h, w) of the window.

        Returns:
            `crop 3` uint8, 0 right of and below the image; within one level of resizing all of
            the image and cutting the window out.
        """
        rows, columns = self.valid_size(crop)
        y, x = self._centers(image.shape, rows, columns)
        top, bottom = _reach(y, image.shape[0])
        left, right = _reach(x, image.shape[1])
        block = np.asarray(image[top:bottom, left:right])
        if (self.height, self.width) == image.shape[:2]:
            pixels = block[:rows, :columns]
            pixels = cv2.flip(pixels, 1) if self.flip else pixels
        else:
            step_y, step_x = image.shape[0] / self.height, image.shape[1] / self.width
            matrix = np.array(
                [[-step_x if self.flip else step_x, 0, x[0] - left], [0, step_y, y[0] - top]]
            )
            # OpenCV warps four channels in less than half the time that it takes for three.
            warped = cv2.warpAffine(
                cv2.cvtColor(block, cv2.COLOR_RGB2RGBA),
                matrix,
                (columns, rows),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            pixels = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
        return padded(pixels, crop, 0)

    def transform_label(self, label: Any, crop: tuple[int, int], fill: int) -> np.ndarray:
        """Applies the decision to a label by nearest neighbors.

        It samples pixel corners, half a pixel off the image, as OpenCV and the published recipe do.

        Args:
            label: `h w`, an array or what can be sliced like one. Of `TrainIds` only the pixels
                sampled are looked up.
            crop: (h, w) of the window.
            fill: the value right of and below the image.

        Returns:
            `crop`, in the dtype of the label.
        """
        count_y, count_x = self.valid_size(crop)
        rows = _corners(self.top + np.arange(count_y), label.shape[0], self.height)
        columns = _corners(self._columns(count_x), label.shape[1], self.width)
        top, bottom, left, right = rows[0], rows[-1] + 1, columns.min(), columns.max() + 1
        lazy = isinstance(label, TrainIds)
        block = np.asarray((label.raw if lazy else label)[top:bottom, left:right])
        ids = np.take(block[rows - top], columns - left, axis=1)
        return padded(label.look_up(ids) if lazy else ids, crop, fill)

    def _columns(self, count: int) -> np.ndarray:
        """Columns of the resized image that the window shows, in its order."""
        columns = self.left + np.arange(count)
        return self.width - 1 - columns if self.flip else columns

    def _centers(
        self, shape: Sequence[int], rows: int, columns: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the image, with fractions, at the centers of the window's."""
        y = (self.top + np.arange(rows) + 0.5) * (shape[0] / self.height) - 0.5
        x = (self._columns(columns) + 0.5) * (shape[1] / self.width) - 0.5
        return y, x

    def valid_size(self, crop: tuple[int, int]) -> tuple[int, int]:
        """Returns how many rows and columns of the window the image fills."""
        return min(self.height, crop[0]), min(self.width, crop[1])


def _reach(centers: np.ndarray, size: int) -> tuple[int, int]:
    """First pixel, and the one after the last, that interpolation at these centers reads."""
    low, high = centers.min(), centers.max()
    return max(0, int(np.floor(low))), min(size, int(np.floor(high)) + 2)


def _corners(places: np.ndarray, source: int, target: int) -> np.ndarray:
    # The order of OpenCV's divisions: at a pixel's edge rounding decides.
    return np.minimum(np.floor(places * (1 / (target / source))).astype(int), source - 1)


def padded(pixels: np.ndarray, crop: tuple[int, int], fill: int) -> np.ndarray:
    """Returns pixels `h w` or `h w c` in the top left corner of `crop`, the rest filled."""
    if pixels.shape[:2] == tuple(crop):
        return np.ascontiguousarray(pixels)
    out = np.full((*crop, *pixels.shape[2:]), fill, pixels.dtype)
    out[: pixels.shape[0], : pixels.shape[1]] = pixels
    return out


@dataclass(frozen=True, kw_only=True)
class RandomScaleCropFlip(grain.transforms.RandomMap):
    """Random scale, crop and mirror image of an image and its label.

    The long side becomes `int(base * scale + 0.5)` with scale = scale_min + scale_step * k and k
    uniform in 0 .. scale_count - 1; the other side follows in proportion.

    Attributes:
        crop: (h, w) of the result.
        base_size: the long side at scale 1; 0 stands for the image's own.
        fixed_size: (h, w) at scale 1 of every image, whatever its proportions; (0, 0): as
            base_size says.
        scale_min, scale_step, scale_count: the set of scales.
        flip: whether half of the images are mirrored.
        flip_pairs: train ids that change places in a mirrored image: left and right limbs.
        ignore_label: the label of pixels outside the image.
    """

    crop: tuple[int, int]
    base_size: int = 0
    fixed_size: tuple[int, int] = (0, 0)
    scale_min: float = 0.5
    scale_step: float = 0.1
    scale_count: int = 17
    flip: bool = True
    flip_pairs: tuple[tuple[int, int], ...] = ()
    ignore_label: int = 255

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> ResizeFlipCrop:
        """Draws the decision for an image of the given (h, w)."""
        scale = self.scale_min + self.scale_step * int(rng.integers(self.scale_count))
        if any(self.fixed_size):
            height, width = (max(1, int(side * scale + 0.5)) for side in self.fixed_size)
        else:
            long_side = max(size)
            target = int((self.base_size or long_side) * scale + 0.5)
            height, width = (max(1, int(side * target / long_side + 0.5)) for side in size)
        return ResizeFlipCrop(
            height=height,
            width=width,
            top=int(rng.integers(max(0, height - self.crop[0]) + 1)),
            left=int(rng.integers(max(0, width - self.crop[1]) + 1)),
            flip=self.flip and bool(rng.integers(2)),
        )

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Transforms one element of a source.

        Args:
            element: image `h w 3` uint8 and label `h w` uint8, arrays or what can be sliced like
                them; index int.
            rng: the source of all randomness.

        Returns:
            image `crop 3` uint8, 0 outside the image; label `crop` uint8, `ignore_label` there;
            size int32 (2,): the rows and columns that the image fills; index int32.
        """
        image, label = element["image"], element["label"]
        place = self.draw(image.shape[:2], rng)
        window = place.transform_label(label, self.crop, self.ignore_label)
        if place.flip and self.flip_pairs:
            window = _swapped(self.flip_pairs)[window]
        return {
            "image": place.transform_image(image, self.crop),
            "label": window,
            "size": np.array(place.valid_size(self.crop), np.int32),
            "index": np.int32(element["index"]),
        }


def _swapped(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """The train id of every id in a mirrored image."""
    table = np.arange(256, dtype=np.uint8)
    for left, right in pairs:
        table[left], table[right] = right, left
    return table
