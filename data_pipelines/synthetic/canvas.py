"""A pinhole camera on a street, and a canvas that paints image and label together."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# Projected points are clipped here: OpenCV's fixed point overflows on corners near the lens.
_FAR = 20000


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Projects street coordinates (metres: x right, y up, z ahead) to pixels.

    Attributes:
        focal: focal length in pixels.
        center, horizon: the column and row of the vanishing point.
        height: of the lens above the road.
        bend: curvature of the street; it shifts everything sideways by bend * z**2.
    """

    focal: float
    center: float
    horizon: float
    height: float
    bend: float

    def project(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Returns pixel columns and rows, int32 `... 2`, of points given by three arrays."""
        pixels = np.empty((*np.broadcast(x, y, z).shape, 2))
        pixels[..., 0] = self.center + self.focal * (x / z + self.bend * z)
        pixels[..., 1] = self.horizon + self.focal * (self.height - y) / z
        return np.rint(pixels.clip(-_FAR, _FAR)).astype(np.int32)

    def point(self, x: float, y: float, z: float) -> tuple[int, int]:
        """Returns the pixel (column, row) of one point; many times faster than an array of one."""
        column = self.center + self.focal * (x / z + self.bend * z)
        row = self.horizon + self.focal * (self.height - y) / z
        return round(max(-_FAR, min(_FAR, column))), round(max(-_FAR, min(_FAR, row)))

    def points(self, corners: Sequence[tuple[float, float, float]]) -> np.ndarray:
        """Returns the pixels, int32 `n 2`, of a few corners (x, y, z)."""
        return np.array([self.point(*corner) for corner in corners], np.int32)

    def scale(self, z: float) -> float:
        """Returns the pixels of a metre at distance z."""
        return self.focal / z

    def ground(self, rows: int, columns: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Returns the first row below the horizon, and x `h w` and z `h 1` of the ground there."""
        first = min(max(int(np.ceil(self.horizon + 0.5)), 0), rows - 1)
        row = np.arange(first, rows, dtype=np.float32)[:, None]
        z = self.focal * self.height / np.maximum(row - self.horizon, 0.5)
        column = np.arange(columns, dtype=np.float32)[None]
        x = (column - self.center) * z / self.focal - self.bend * z**2
        return first, x, z


Shade = tuple[float, float, float]


class Canvas:
    """An image `h w 3` uint8 and its label `h w` uint8, painted with the same strokes.

    A stroke without a label changes colors only: the details within an object.
    """

    def __init__(self, height: int, width: int) -> None:
        self.image = np.zeros((height, width, 3), np.uint8)
        self.label = np.zeros((height, width), np.uint8)

    def polygons(
        self, shapes: Sequence[np.ndarray], color: Shade, label: int | None = None
    ) -> None:
        """Fills polygons, each int32 `n 2` pixels; where they overlap they cancel."""
        cv2.fillPoly(self.image, shapes, color)
        if label is not None:
            cv2.fillPoly(self.label, shapes, label)

    def hull(self, points: np.ndarray, color: Shade, label: int | None = None) -> None:
        """Fills the convex hull of points int32 `n 2`."""
        self.polygons([cv2.convexHull(points)], color, label)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        color: Shade,
        label: int | None = None,
    ) -> None:
        """Fills a rectangle of at least one pixel, upright in the image."""
        x0, y0 = round(left), round(top)
        start, end = (x0, y0), (max(round(right) - 1, x0), max(round(bottom) - 1, y0))
        cv2.rectangle(self.image, start, end, color, cv2.FILLED)
        if label is not None:
            cv2.rectangle(self.label, start, end, label, cv2.FILLED)

    def disc(
        self, x: float, y: float, radius: float, color: Shade, label: int | None = None
    ) -> None:
        """Fills a disc of at least one pixel."""
        center, pixels = (round(x), round(y)), max(0, round(radius))
        cv2.circle(self.image, center, pixels, color, cv2.FILLED)
        if label is not None:
            cv2.circle(self.label, center, pixels, label, cv2.FILLED)

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        thickness: float,
        color: Shade,
        label: int | None = None,
    ) -> None:
        """Draws a line of at least one pixel's thickness."""
        first, last = (round(start[0]), round(start[1])), (round(end[0]), round(end[1]))
        width = max(1, round(thickness))
        cv2.line(self.image, first, last, color, width)
        if label is not None:
            cv2.line(self.label, first, last, label, width)
