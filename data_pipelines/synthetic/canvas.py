"""A pinhole camera, and a canvas that draws an image and its label together."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Color = tuple[float, float, float]

# Projected points are clipped: OpenCV's fixed-point coordinates overflow near the camera.
_MAX_COORDINATE = 20000


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Projects street coordinates (meters: x right, y up, z ahead) to pixels.

    Attributes:
      focal: focal length in pixels.
      center: column of the vanishing point.
      horizon: row of the vanishing point.
      height: height of the camera above the road in meters.
      bend: curvature of the street: shifts points sideways by bend * z**2.
    """

    focal: float
    center: float
    horizon: float
    height: float
    bend: float

    def project(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Projects arrays of coordinates to pixels (column, row), int32 `... 2`."""
        pixels = np.empty((*np.broadcast(x, y, z).shape, 2))
        pixels[..., 0] = self.center + self.focal * (x / z + self.bend * z)
        pixels[..., 1] = self.horizon + self.focal * (self.height - y) / z
        return np.rint(pixels.clip(-_MAX_COORDINATE, _MAX_COORDINATE)).astype(np.int32)

    def project_point(self, x: float, y: float, z: float) -> tuple[int, int]:
        """Projects one point to (column, row); many times faster than an array of one."""
        column = self.center + self.focal * (x / z + self.bend * z)
        row = self.horizon + self.focal * (self.height - y) / z
        return (
            round(max(-_MAX_COORDINATE, min(_MAX_COORDINATE, column))),
            round(max(-_MAX_COORDINATE, min(_MAX_COORDINATE, row))),
        )

    def project_points(self, points: Sequence[tuple[float, float, float]]) -> np.ndarray:
        """Projects a few points (x, y, z) to pixels, int32 `n 2`."""
        return np.array([self.project_point(*point) for point in points], np.int32)

    def scale(self, z: float) -> float:
        """Returns the length of a meter at distance z in pixels."""
        return self.focal / z

    def ground(self, rows: int, columns: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Returns the first row below the horizon, and x `h w` and z `h 1` of the ground there."""
        first = min(max(int(np.ceil(self.horizon + 0.5)), 0), rows - 1)
        row = np.arange(first, rows, dtype=np.float32)[:, None]
        z = self.focal * self.height / np.maximum(row - self.horizon, 0.5)
        column = np.arange(columns, dtype=np.float32)[None]
        x = (column - self.center) * z / self.focal - self.bend * z**2
        return first, x, z


class Canvas:
    """An image `h w 3` uint8 and its label `h w` uint8, drawn together.

    Shapes without a label change the image only: they are details of an object.
    """

    def __init__(self, height: int, width: int) -> None:
        self.image = np.zeros((height, width, 3), np.uint8)
        self.label = np.zeros((height, width), np.uint8)

    def polygons(
        self, polygons: Sequence[np.ndarray], color: Color, label: int | None = None
    ) -> None:
        """Fills polygons, each int32 `n 2` pixels, by the even-odd rule."""
        cv2.fillPoly(self.image, polygons, color)
        if label is not None:
            cv2.fillPoly(self.label, polygons, label)

    def hull(self, points: np.ndarray, color: Color, label: int | None = None) -> None:
        """Fills the convex hull of points int32 `n 2`."""
        self.polygons([cv2.convexHull(points)], color, label)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        color: Color,
        label: int | None = None,
    ) -> None:
        """Fills an axis-aligned rectangle of at least one pixel."""
        x0, y0 = round(left), round(top)
        start, end = (x0, y0), (max(round(right) - 1, x0), max(round(bottom) - 1, y0))
        cv2.rectangle(self.image, start, end, color, cv2.FILLED)
        if label is not None:
            cv2.rectangle(self.label, start, end, label, cv2.FILLED)

    def bar(
        self,
        center: float,
        top: float,
        bottom: float,
        width: float,
        color: Color,
        label: int | None = None,
    ) -> None:
        """Fills a rectangle of a width about a center column."""
        self.box(center - width / 2, top, center + width / 2, bottom, color, label)

    def disc(
        self, x: float, y: float, radius: float, color: Color, label: int | None = None
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
        color: Color,
        label: int | None = None,
    ) -> None:
        """Draws a line of at least one pixel's thickness."""
        first, last = (round(start[0]), round(start[1])), (round(end[0]), round(end[1]))
        pixels = max(1, round(thickness))
        cv2.line(self.image, first, last, color, pixels)
        if label is not None:
            cv2.line(self.label, first, last, label, pixels)
