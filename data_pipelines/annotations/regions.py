"""Rasterizes shapes as runs of pixels, by the convention of COCO's mask API.

A polygon covers the pixels that COCO's mask API fills: the outline runs between pixels, not on
them, a polygon that crosses itself is filled by the even-odd rule, and what lies outside the image
is cut off.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as coco_masks

from data_pipelines.annotations.shapes import Shape, Size
from data_pipelines.errors import DataError
from data_pipelines.sources.coco_entries import are_numbers
from gsto_jax.image_files import ImageError, open_image

_MAX_PIXELS = 2_000_000
"""Maximum distance of a point from the first pixel, and length of an outline: COCO's mask API
allocates 80 bytes for each pixel of the outline, and counts in 32 bits."""
_MIN_VALUES = 6  # of a polygon: x and y of three points


@dataclass(frozen=True)
class Region:
    """A set of pixels.

    Attributes:
      runs: int64 `n 2`, first pixel and end of each run, counted down the columns as in COCO's RLE.
    """

    runs: np.ndarray

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int((self.runs[:, 1] - self.runs[:, 0]).sum())

    def fill(self, columns: np.ndarray, value: int) -> None:
        """Sets the region's pixels of a label map, `w*h`: its columns one after the other."""
        for start, end in self.runs.tolist():
            columns[start:end] = value


def rasterize(shape: Shape, size: Size) -> Region:
    """Returns the pixels of a shape in an image of size (h, w).

    A polygon of fewer than three points has none.

    Raises:
      DataError: the shape is malformed; names its location.
    """
    match shape.kind:
        case "polygons":
            return _from_polygons(shape, size)
        case "rle":
            return _from_rle(shape, size)
        case "disk":
            return _from_disk(shape, size)
        case "bitmap":
            return _from_bitmap(shape, size)


def _from_polygons(shape: Shape, size: Size) -> Region:
    polygons = [polygon for polygon in shape.geometry if _is_polygon(polygon, shape.location)]
    if not polygons:
        return Region(np.zeros((0, 2), np.int64))
    encoded = coco_masks.frPyObjects(polygons, *size)
    counts = coco_masks.merge(encoded)["counts"] if len(encoded) > 1 else encoded[0]["counts"]
    return _from_counts(decode_counts(counts))


def _is_polygon(values: Any, location: str) -> bool:
    """Returns whether a polygon has three points. Raises DataError if it is malformed."""
    if not are_numbers(values) or len(values) % 2:
        raise DataError(
            f"{location}: a polygon must be a flat list of finite x, y of each point; got"
            f" {str(values)[:60]}."
        )
    if len(values) < _MIN_VALUES:
        return False
    points = np.asarray(values, np.float64).reshape(-1, 2)
    if np.abs(points).max() > _MAX_PIXELS or _outline_length(points) > _MAX_PIXELS:
        raise DataError(
            f"{location}: a polygon must lie within {_MAX_PIXELS} pixels of its image, and its"
            f" outline be no longer; got {str(values)[:60]}."
        )
    return True


def _outline_length(points: np.ndarray) -> float:
    """Returns the number of pixels along a closed polygon of points `n 2`."""
    return float(np.abs(np.diff(points, axis=0, append=points[:1])).max(1).sum())


def _from_rle(shape: Shape, size: Size) -> Region:
    rle, location = shape.geometry, shape.location
    if not are_numbers(rle.get("size"), 2) or tuple(rle["size"]) != size:
        raise DataError(
            f"{location}: size of the RLE must be (height, width) of its image, {size}; got"
            f" {rle.get('size')!r:.60}."
        )
    counts = rle.get("counts")
    if isinstance(counts, str):
        try:
            counts = decode_counts(counts.encode("ascii"))
        except ValueError as error:
            raise DataError(f"{location}: counts is no compressed RLE: {error}.") from None
    elif not are_numbers(counts) or not all(type(count) is int for count in counts):
        raise DataError(
            f"{location}: counts must be a list of integers, or a string; got {str(counts)[:60]}."
        )
    pixels = size[0] * size[1]
    if sum(counts) != pixels or min(counts, default=0) < 0:
        raise DataError(
            f"{location}: counts must be lengths of runs, {pixels} pixels in all; got"
            f" {sum(counts)!s:.40} in all, the least {min(counts, default=0)!s:.40}."
        )
    return _from_counts(counts)


def decode_counts(text: bytes) -> list[int]:
    """Decodes COCO's compressed run lengths: 5 bits per character, differences from the fourth on.

    Raises:
      ValueError: another character, or the end within a number.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"character {bytes([character])!r} is not one of it")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("it ends within a number")
    return counts


def _from_counts(counts: Sequence[int]) -> Region:
    """Returns the region of COCO's run lengths: of zeros, of ones, of zeros, ..."""
    ends = np.cumsum(np.asarray(counts, np.int64))
    ones = ends[1::2]
    return Region(np.stack([ends[: 2 * len(ones) : 2], ones], axis=1))


def _from_disk(shape: Shape, size: Size) -> Region:
    """Returns the pixels whose centers lie in a disk."""
    x, y, radius = shape.geometry
    height, width = size
    if max(abs(x), abs(y), radius) > _MAX_PIXELS:
        raise DataError(
            f"{shape.location}: a circle must lie within {_MAX_PIXELS} pixels of its image; got"
            f" {shape.geometry!r:.60}."
        )
    first, last = np.clip([x - radius - 1, x + radius + 1], 0, width).astype(np.int64)
    columns = np.arange(first, last)
    distance = np.abs(columns + 0.5 - x)
    half = np.sqrt(np.maximum(radius**2 - distance**2, 0))
    starts = np.ceil(np.clip(y - half - 0.5, 0, height)).astype(np.int64)
    ends = np.floor(np.clip(y + half + 0.5, 0, height)).astype(np.int64)
    covered = (distance <= radius) & (ends > starts)
    return Region(np.stack([starts, ends], axis=1)[covered] + height * columns[covered, None])


def _from_bitmap(shape: Shape, size: Size) -> Region:
    x, y, text = shape.geometry
    try:
        with open_image(base64.b64decode(text, validate=True)) as image:
            bitmap = np.asarray(image)
    except (ImageError, ValueError) as error:  # of base64
        raise DataError(f"{shape.location}: mask is no PNG in base64 ({error}).") from None
    if bitmap.ndim != 2:
        raise DataError(
            f"{shape.location}: mask must be a PNG of one channel; got {bitmap.shape[2]}."
        )
    top, left = max(0, -y), max(0, -x)
    inside = bitmap[top : max(top, size[0] - y), left : max(left, size[1] - x)] != 0
    columns, rows = inside.shape[1], inside.shape[0]
    bordered = np.zeros((columns, rows + 2), np.int8)
    bordered[:, 1:-1] = inside.T
    steps = np.diff(bordered, axis=1)
    offset = (x + left) * size[0] + y + top
    starts, ends = (
        offset + column * size[0] + row
        for column, row in (np.nonzero(steps == 1), np.nonzero(steps == -1))
    )
    return Region(np.stack([starts, ends], axis=1))
