"""Random scale, rotation, crop and flip of an image and its label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import grain
import numpy as np

from data_pipelines.sources.label_map import MappedLabel


@dataclass(frozen=True, kw_only=True)
class ResizeFlipCrop:
    """Resizes an image, flips it, crops a window, and rotates the window about its center.

    Only the window is resampled, so the cost does not depend on the size of the image.

    Attributes:
      height: height of the resized image in pixels.
      width: width of the resized image in pixels.
      top: first row of the window in the resized image.
      left: first column of the window in the resized, flipped image.
      flip: whether the resized image is flipped left to right.
      angle: rotation of the window's content in degrees, clockwise.
    """

    height: int
    width: int
    top: int
    left: int
    flip: bool
    angle: float = 0.0

    def transform_image(self, image: Any, crop: tuple[int, int]) -> np.ndarray:
        """Transforms an image by bilinear interpolation, as OpenCV's `resize`.

        Args:
          image: `h w c` uint8: an array, or a lazily decoded image such as `Tiles`.
          crop: (h, w) of the window.

        Returns:
          `crop c` uint8, 0 right of and below the image; within one gray level of resizing the
          whole image and then cropping it. In the corners of a rotated window the edge of the image
          is repeated.
        """
        if self.angle:
            return pad(self._rotate_image(image, crop), crop, 0)
        rows, columns = self.valid_size(crop)
        step_y, step_x = image.shape[0] / self.height, image.shape[1] / self.width
        # Fractional coordinates, in the image, of the centers of the window's pixels.
        y = (self.top + np.arange(rows) + 0.5) * step_y - 0.5
        x = (self._columns(columns) + 0.5) * step_x - 0.5
        top, bottom = _support(y, image.shape[0])
        left, right = _support(x, image.shape[1])
        block = np.asarray(image[top:bottom, left:right])
        if (self.height, self.width) == image.shape[:2]:
            pixels = block[:rows, :columns]
            pixels = cv2.flip(pixels, 1).reshape(pixels.shape) if self.flip else pixels
        else:
            matrix = np.array(
                [[-step_x if self.flip else step_x, 0, x[0] - left], [0, step_y, y[0] - top]]
            )
            pixels = _warp(block, matrix, (columns, rows))
        return pad(pixels, crop, 0)

    def transform_label(self, label: Any, crop: tuple[int, int], fill: int) -> np.ndarray:
        """Transforms a label by nearest neighbor.

        Samples at pixel corners, half a pixel off the image, as OpenCV and the published recipe do.

        Args:
          label: `h w`: an array, or a lazily decoded label such as `Tiles`. Of a `MappedLabel`,
            only the sampled ids are mapped.
          crop: (h, w) of the window.
          fill: value right of and below the image.

        Returns:
          `crop`, in the dtype of the label; `fill` in the corners of a rotated window, outside the
          image.
        """
        if self.angle:
            return pad(self._rotate_label(label, crop, fill), crop, fill)
        num_rows, num_columns = self.valid_size(crop)
        rows = _nearest(self.top + np.arange(num_rows), label.shape[0], self.height)
        columns = _nearest(self._columns(num_columns), label.shape[1], self.width)
        top, bottom, left, right = rows[0], rows[-1] + 1, columns.min(), columns.max() + 1
        is_mapped = isinstance(label, MappedLabel)
        block = np.asarray((label.ids if is_mapped else label)[top:bottom, left:right])
        ids = np.take(block[rows - top], columns - left, axis=1)
        return pad(label.map(ids) if is_mapped else ids, crop, fill)

    def _rotate_image(self, image: Any, crop: tuple[int, int]) -> np.ndarray:
        rows, columns = self.valid_size(crop)
        matrix = self._window_to_image(image.shape, crop)
        corners = [(u, v, 1) for u in (0, columns - 1) for v in (0, rows - 1)]
        x, y = matrix @ np.transpose(corners)
        top, bottom = _support(y, image.shape[0])
        left, right = _support(x, image.shape[1])
        block = np.asarray(image[top:bottom, left:right])
        return _warp(block, matrix - [[0, 0, left], [0, 0, top]], (columns, rows))

    def _rotate_label(self, label: Any, crop: tuple[int, int], fill: int) -> np.ndarray:
        num_rows, num_columns = self.valid_size(crop)
        v, u = np.mgrid[:num_rows, :num_columns]
        matrix = self._window_to_image(label.shape, crop)
        x, y = np.rint(np.tensordot(matrix, np.stack([u, v, np.ones_like(u)]), 1)).astype(int)
        height, width = label.shape[:2]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        x, y = x.clip(0, width - 1), y.clip(0, height - 1)
        top, left = y.min(), x.min()
        is_mapped = isinstance(label, MappedLabel)
        block = (label.ids if is_mapped else label)[top : y.max() + 1, left : x.max() + 1]
        ids = np.asarray(block)[y - top, x - left]
        ids = label.map(ids) if is_mapped else ids
        return np.where(inside, ids, ids.dtype.type(fill))

    def _window_to_image(self, shape: Sequence[int], crop: tuple[int, int]) -> np.ndarray:
        """Returns the affine map `2 3` from (column, row, 1) in the window to (x, y) in the image.

        Both are coordinates of pixel centers.
        """
        rows, columns = self.valid_size(crop)
        step_y, step_x = shape[0] / self.height, shape[1] / self.width
        center = (columns - 1) / 2, (rows - 1) / 2
        rotation = np.eye(3)
        rotation[:2] = cv2.getRotationMatrix2D(center, self.angle, 1.0)
        first = self.width - 1 - self.left if self.flip else self.left
        resize = [
            [-step_x if self.flip else step_x, 0, (first + 0.5) * step_x - 0.5],
            [0, step_y, (self.top + 0.5) * step_y - 0.5],
        ]
        return np.asarray(resize @ rotation)

    def valid_size(self, crop: tuple[int, int]) -> tuple[int, int]:
        """Returns the number of rows and columns of the window that the image fills."""
        return min(self.height, crop[0]), min(self.width, crop[1])

    def _columns(self, count: int) -> np.ndarray:
        """Returns the column of the resized image at each column of the window."""
        columns = self.left + np.arange(count)
        return self.width - 1 - columns if self.flip else columns


def _warp(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Samples `h w c` uint8 bilinearly at an affine map of the output's (width, height)."""
    channels = pixels.shape[2]
    if channels == 3:
        # OpenCV warps four channels in less than half the time of three.
        rgba = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)
        return cv2.cvtColor(_warp_block(rgba, matrix, size), cv2.COLOR_RGBA2RGB)
    blocks = []
    for start in range(0, channels, 4):
        block = pixels[..., start : start + 4]
        count = block.shape[2]
        # OpenCV warps two channels less exactly than one or four.
        block = np.pad(block, ((0, 0), (0, 0), (0, 4 - count if count in (2, 3) else 0)))
        # It drops the axis of a single channel.
        warped = _warp_block(block, matrix, size).reshape(*size[::-1], -1)
        blocks.append(warped[..., :count])
    return np.concatenate(blocks, axis=2)


def _warp_block(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.warpAffine(
        np.ascontiguousarray(pixels),
        matrix,
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _support(centers: np.ndarray, size: int) -> tuple[int, int]:
    """Returns the range of pixels that bilinear interpolation at these positions reads."""
    low, high = centers.min(), centers.max()
    return max(0, int(np.floor(low))), min(size, int(np.floor(high)) + 2)


def _nearest(positions: np.ndarray, source: int, target: int) -> np.ndarray:
    # Divides in the same order as OpenCV, since the result at pixel edges depends on rounding.
    return np.minimum(np.floor(positions * (1 / (target / source))).astype(int), source - 1)


def pad(pixels: np.ndarray, shape: tuple[int, int], fill: int) -> np.ndarray:
    """Pads `h w` or `h w c` on the right and below to (h, w) = `shape`."""
    if pixels.shape[:2] == tuple(shape):
        return np.ascontiguousarray(pixels)
    out = np.full((*shape, *pixels.shape[2:]), fill, pixels.dtype)
    out[: pixels.shape[0], : pixels.shape[1]] = pixels
    return out


@dataclass(frozen=True, kw_only=True)
class RandomScaleCropFlip(grain.transforms.RandomMap):
    """Scales, flips, crops and rotates image and label at random.

    The scale is scale_min + scale_step * k, with k uniform in 0 .. num_scales - 1. The long side
    becomes int(base * scale + 0.5) pixels, the other side follows in proportion.

    Attributes:
      crop: (h, w) of the result in pixels.
      base_size: long side at scale 1 in pixels; 0 uses the size of the image.
      fixed_size: (h, w) at scale 1 in pixels, aspect ratio ignored; (0, 0): see base_size.
      scale_min: smallest scale.
      scale_step: step between scales.
      num_scales: number of scales.
      flip: flips left to right with probability 0.5.
      rotation: maximum rotation in degrees, uniform in both directions.
      flip_pairs: pairs of train ids to swap in a flipped label, such as left and right arm.
      ignore_label: label of pixels outside the image.
    """

    crop: tuple[int, int]
    base_size: int = 0
    fixed_size: tuple[int, int] = (0, 0)
    scale_min: float = 0.5
    scale_step: float = 0.1
    num_scales: int = 17
    flip: bool = True
    rotation: float = 0.0
    flip_pairs: tuple[tuple[int, int], ...] = ()
    ignore_label: int = 255

    def sample(self, size: tuple[int, int], rng: np.random.Generator) -> ResizeFlipCrop:
        """Samples the transform of an image of size (h, w)."""
        scale = self.scale_min + self.scale_step * int(rng.integers(self.num_scales))
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
            angle=self.rotation * rng.uniform(-1, 1) if self.rotation else 0.0,
        )

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Transforms an example.

        Args:
          element: image `h w c` uint8, label `h w` uint8, index int; image and label are arrays or
            decode lazily, such as `Tiles`.
          rng: random number generator.

        Returns:
          image `crop c` uint8, 0 outside the image; label `crop` uint8, `ignore_label` outside;
          size int32 (2,), the rows and columns that the image fills; index int32; augment_seed
          uint32, for the augmentation of pixels.
        """
        image = element["image"]
        transform = self.sample(image.shape[:2], rng)
        label = transform.transform_label(element["label"], self.crop, self.ignore_label)
        if transform.flip and self.flip_pairs:
            label = _swap_table(self.flip_pairs)[label]
        return {
            "image": transform.transform_image(image, self.crop),
            "label": label,
            "size": np.array(transform.valid_size(self.crop), np.int32),
            "index": np.int32(element["index"]),
            "augment_seed": np.uint32(rng.integers(2**32)),
        }


def _swap_table(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns a lookup table, uint8 (256,), that swaps pairs of ids."""
    table = np.arange(256, dtype=np.uint8)
    for left, right in pairs:
        table[left], table[right] = right, left
    return table
