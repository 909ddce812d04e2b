"""Draws one street from the far end to the near one."""

import numpy as np

from data_pipelines.synthetic.backdrop import Backdrop
from data_pipelines.synthetic.furniture import Furniture
from data_pipelines.synthetic.light import develop
from data_pipelines.synthetic.traffic import Traffic


def draw_street(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a street as seen from a car.

    Args:
        rng: decides everything.
        height: of the image.
        width: of the image.

    Returns:
        The image, `h w 3` uint8 RGB, and its label, `h w` uint8 ids of `SCENES`.
    """
    street = _Street(rng, height, width)
    street.draw()
    return develop(rng, street.canvas.image, street.canvas.label), street.canvas.label


class _Street(Backdrop, Furniture, Traffic):
    """A street whose things are painted in the order of their distance."""

    def draw(self) -> None:
        """Paints sky and ground, then everything else in the order of its distance."""
        self._paint_sky()
        self._paint_ground()
        self._paint_skyline()
        for side in (0, 1):
            self._plan_fronts(side)
            self._plan_furniture(side)
        self._plan_cars()
        self._plan_people()
        for _, paint_it in sorted(self.things, key=lambda thing: -thing[0]):
            paint_it()
