"""Geometry and lighting of a street scene, and its objects by distance."""

from collections.abc import Callable
from math import exp, inf

import numpy as np

from data_pipelines.labels import SCENES
from data_pipelines.synthetic.appearance import blend_colors, sample_color, scale_brightness
from data_pipelines.synthetic.canvas import Camera, Canvas, Color

ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, POLE, SIGN, CAR, PERSON = range(len(SCENES.names))

MIN_DISTANCE, MAX_DISTANCE = 2.5, 75.0
"""Range of distances of roadside objects and cars in meters."""


class Scene:
    """Geometry and lighting of a street, and the objects to draw.

    Pairs are (left, right); lengths are in meters, x to the right of the camera, z ahead of it.

    Args:
      rng: random number generator.
      height: height of the image in pixels.
      width: width of the image in pixels.

    Attributes:
      canvas: the image and its label.
      camera: projects points of the scene to pixels.
      curb: x of the curbs.
      facade: x where buildings begin.
      side_street: z where a side street begins; infinite: there is none.
      visibility: distance at which haze covers 63 % of a color.
      side_light: brightness of surfaces that face the street from the left and the right.
      ambient: mean of side_light.
      objects: (distance, draw function) of each object.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.canvas = Canvas(height, width)
        self.camera = Camera(
            focal=width * rng.uniform(0.55, 0.9),
            center=width * rng.uniform(0.3, 0.7),
            horizon=height * rng.uniform(0.38, 0.58),
            height=rng.uniform(1.3, 2.3),
            bend=rng.normal(0, 0.0012),
        )
        self.curb = (-rng.uniform(2.5, 8.0), rng.uniform(2.5, 8.0))
        sidewalk_widths = rng.uniform(2.5, 6.0, 2).tolist()
        self.facade = (self.curb[0] - sidewalk_widths[0], self.curb[1] + sidewalk_widths[1])
        self.side_street = rng.uniform(12, 60) if rng.random() < 0.4 else inf
        self.sky = sample_color(rng, "sky")
        self.haze = blend_colors(self.sky, sample_color(rng, "sky"), 0.5)
        self.visibility = 10 ** rng.uniform(2.0, 3.0)
        self.side_light = rng.uniform(0.7, 1.15, 2).tolist()
        self.ambient = sum(self.side_light) / 2
        self.objects: list[tuple[float, Callable[[], None]]] = []

    def add(self, z: float, draw: Callable[[], None]) -> None:
        """Adds an object at distance z."""
        self.objects.append((z, draw))

    def shade(self, color: Color, z: float, brightness: float = 1.0) -> Color:
        """Applies a brightness, and the haze at distance z."""
        hazy = blend_colors(
            scale_brightness(color, brightness), self.haze, 1 - exp(-z / self.visibility)
        )
        return scale_brightness(hazy, 1.0)

    def is_in_view(self, column: float, radius: float) -> bool:
        """Returns whether an object around a pixel column overlaps the image."""
        return -radius < column < self.canvas.label.shape[1] + radius

    def sample_distances(self, count: int, nearest: float, farthest: float) -> list[float]:
        """Samples distances uniformly on a logarithmic scale."""
        return np.exp(self.rng.uniform(np.log(nearest), np.log(farthest), count)).tolist()
