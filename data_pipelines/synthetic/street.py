"""Renders a street scene and its label."""

import numpy as np

from data_pipelines.synthetic.appearance import postprocess
from data_pipelines.synthetic.background import Background
from data_pipelines.synthetic.furniture import StreetFurniture
from data_pipelines.synthetic.traffic import Traffic


class _Street(Background, StreetFurniture, Traffic):
    """A street with all its objects."""

    def draw(self) -> None:
        """Draws the background, then the objects from far to near."""
        self.draw_sky()
        self.draw_ground()
        self.draw_skyline()
        for side in (0, 1):
            self.add_roadside(side)
            self.add_street_furniture(side)
        self.add_cars()
        self.add_persons()
        for _, draw in sorted(self.objects, key=lambda item: -item[0]):
            draw()


def render_street(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Renders a street as seen from a car.

    Returns:
      The image, `h w 3` uint8 RGB, and its label, `h w` uint8 train ids of `SCENES`.
    """
    street = _Street(rng, height, width)
    street.draw()
    return postprocess(rng, street.canvas.image, street.canvas.label), street.canvas.label
