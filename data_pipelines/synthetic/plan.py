"""The plan of a street: its geometry and light, and the things on it by distance."""

from collections.abc import Callable
from math import exp, inf

import numpy as np

from data_pipelines.labels import SCENES
from data_pipelines.synthetic.canvas import Camera, Canvas, Shade
from data_pipelines.synthetic.light import blend, dim, paint

ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, POLE, SIGN, CAR, PERSON = range(len(SCENES.names))

NEAR, END = 2.5, 75.0
"""Distances in meters between which the street is lined with things."""


class StreetPlan:
    """Geometry and light of a street, and how to draw each thing on it.

    Args:
      rng: decides everything.
      height: of the image.
      width: of the image.
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
        # Left and right, in metres from the camera: kerbs, and where the fronts begin.
        self.kerb = (-rng.uniform(2.5, 8.0), rng.uniform(2.5, 8.0))
        walk = rng.uniform(2.5, 6.0, 2).tolist()
        self.front = (self.kerb[0] - walk[0], self.kerb[1] + walk[1])
        # Where a side street begins; out of sight if there is none.
        self.crossing = rng.uniform(12, 60) if rng.random() < 0.4 else inf
        self.sky = paint(rng, "sky")
        self.haze = blend(self.sky, paint(rng, "sky"), 0.5)
        self.sight = 10 ** rng.uniform(2.0, 3.0)
        self.sun = rng.uniform(0.7, 1.15, 2).tolist()
        self.ambient = sum(self.sun) / 2
        self.things: list[tuple[float, Callable[[], None]]] = []

    def add(self, z: float, paint_it: Callable[[], None]) -> None:
        """Adds a thing at distance `z`, and how to paint it."""
        self.things.append((z, paint_it))

    def seen(self, color: Shade, z: float, light: float = 1.0) -> Shade:
        """Returns a color as it looks in this light from this distance."""
        return dim(blend(dim(color, light), self.haze, 1 - exp(-z / self.sight)), 1.0)

    def visible(self, column: float, reach: float) -> bool:
        """Tells whether something around this column shows in the image."""
        return -reach < column < self.canvas.label.shape[1] + reach

    def _distances(self, count: int, near: float, far: float) -> list[float]:
        """Draws distances of which each doubling holds equally many."""
        return np.exp(self.rng.uniform(np.log(near), np.log(far), count)).tolist()
