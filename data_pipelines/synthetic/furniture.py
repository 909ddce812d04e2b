"""Street furniture along the curbs: lamps, signs and trees."""

from functools import partial

import numpy as np

from data_pipelines.synthetic.appearance import sample_color
from data_pipelines.synthetic.roadside import Roadside
from data_pipelines.synthetic.scene import POLE, SIGN


class StreetFurniture(Roadside):
    """Adds street furniture along the curbs; side 0 is left, 1 right."""

    def add_street_furniture(self, side: int) -> None:
        """Adds a row of equal lamps, some signs, and perhaps a row of trees along one side."""
        rng = self.rng
        outward = 2 * side - 1
        curb = self.curb[side] + outward * 0.5
        lamp = sample_color(rng, "pole")
        height, thickness, has_arm = rng.uniform(4, 8.5), rng.uniform(0.45, 0.9), rng.random() < 0.6

        def draw_lamp(z: float) -> None:
            canvas, scale = self.canvas, self.camera.scale(z)
            column, bottom = self.camera.project_point(curb, 0, z)
            if not self.is_in_view(column, 2 * scale):
                return
            top, half = bottom - height * scale, thickness * scale / 2
            color, highlight = self.shade(lamp, z), self.shade(lamp, z, 1.4)
            canvas.box(column - half, top, column + half, bottom, color, POLE)
            canvas.box(column - half, top, column - half / 3, bottom, highlight, POLE)
            if has_arm:
                end = (column - outward * 1.6 * scale, top - 0.3 * scale)
                canvas.line((column, top), end, thickness * scale * 0.7, color, POLE)
                canvas.disc(*end, 0.22 * scale, self.shade(lamp, z, 1.3), POLE)

        for z in np.arange(rng.uniform(4, 14), 45, rng.uniform(10, 20)).tolist():
            self.add(z, partial(draw_lamp, z))
        for z in self.sample_distances(int(rng.integers(2, 4)), 4, 30):
            self._add_sign(curb + outward * rng.uniform(-0.2, 1), z)
        if rng.random() < 0.35:
            for z in np.arange(rng.uniform(6, 14), 60, rng.uniform(10, 18)):
                self.add_tree(curb + outward * rng.uniform(0, 1), float(z))

    def _add_sign(self, x: float, z: float) -> None:
        """Adds a sign: a wide one on two posts, or a triangle, diamond, square, octagon or disc."""
        rng = self.rng
        is_wide = rng.random() < 0.25
        post, plate = sample_color(rng, "pole"), sample_color(rng, "sign")
        mark = sample_color(rng, "sign")
        if rng.random() < 0.5:
            mark = (20.0,) * 3 if rng.random() < 0.5 else (240.0,) * 3
        middle, half = rng.uniform(2.2, 2.8), rng.uniform(0.7, 1.1)
        aspect = rng.uniform(1.6, 2.6) if is_wide else 1.0
        half = half * (1.5 if is_wide else 1.0)
        corners = 4 if is_wide else int(rng.choice([3, 4, 8, 24]))
        is_square = is_wide or (corners == 4 and rng.random() < 0.7)
        angles = (np.pi / 4 if is_square else -np.pi / 2) + 2 * np.pi * np.arange(corners) / corners
        if corners == 8:
            angles += np.pi / 8
        shape = np.stack([aspect * np.cos(angles), np.sin(angles)], axis=1)
        num_bars = int(rng.integers(1, 4))

        def draw() -> None:
            canvas, scale = self.canvas, self.camera.scale(z)
            column, bottom = self.camera.project_point(x, 0, z)
            radius = half * scale
            if not self.is_in_view(column, aspect * half * scale):
                return
            row = bottom - (middle + half) * scale
            spacing = 0.6 * aspect * half * scale
            for offset in (-spacing, spacing) if is_wide else (0,):
                width = max(0.4 * scale, 1)
                canvas.bar(column + offset, row, bottom, width, self.shade(post, z), POLE)
            if radius < 1:
                color = self.shade(plate, z)
                canvas.bar(column, row - radius, row + radius, 2 * radius, color, SIGN)
                return
            for size, color in ((1.0, mark), (0.8, plate)):
                outline = np.rint((column, row) + size * radius * shape).astype(np.int32)
                canvas.polygons([outline], self.shade(color, z), SIGN)
            for bar in range(num_bars):
                center = row + radius * 0.22 * (2 * bar - num_bars + 1)
                y0, y1 = center - 0.07 * radius, center + 0.07 * radius
                canvas.bar(column, y0, y1, 0.8 * aspect * radius, self.shade(mark, z))

        self.add(z, draw)
