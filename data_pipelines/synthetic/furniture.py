"""What stands along the kerb: lamps, signs and trees."""

import numpy as np

from data_pipelines.synthetic.canvas import Shade
from data_pipelines.synthetic.fronts import Fronts
from data_pipelines.synthetic.light import paint
from data_pipelines.synthetic.plan import POLE, SIGN


class Furniture(Fronts):
    """Plans what lines the street and stands along its kerbs."""

    def _plan_furniture(self, side: int) -> None:
        rng = self.rng
        outward = 2 * side - 1
        kerb = self.kerb[side] + outward * 0.5
        lamp = paint(rng, "pole"), rng.uniform(4, 8.5), rng.uniform(0.45, 0.9), rng.random() < 0.6
        for z in np.arange(rng.uniform(4, 14), 45, rng.uniform(10, 20)):
            self._plan_lamp(kerb, float(z), outward, *lamp)
        for z in self._distances(int(rng.integers(2, 4)), 4, 30):
            self._plan_sign(kerb + outward * rng.uniform(-0.2, 1), z)
        if rng.random() < 0.35:
            for z in np.arange(rng.uniform(6, 14), 60, rng.uniform(10, 18)):
                self._plan_tree(kerb + outward * rng.uniform(0, 1), float(z))

    def _plan_lamp(
        self,
        x: float,
        z: float,
        outward: int,
        color: Shade,
        tall: float,
        thick: float,
        arm: bool,
    ) -> None:
        def paint_it() -> None:
            scale = self.camera.scale(z)
            column, foot = self.camera.point(x, 0, z)
            if not self.visible(column, 2 * scale):
                return
            top, half = foot - tall * scale, thick * scale / 2
            shade = self.seen(color, z)
            self.canvas.box(column - half, top, column + half, foot, shade, POLE)
            self.canvas.box(column - half, top, column - half / 3, foot, self.seen(color, z, 1.4))
            if arm:
                end = (column - outward * 1.6 * scale, top - 0.3 * scale)
                self.canvas.line((column, top), end, thick * scale * 0.7, shade, POLE)
                self.canvas.disc(*end, 0.22 * scale, self.seen(color, z, 1.3), POLE)

        self.add(z, paint_it)

    def _plan_sign(self, x: float, z: float) -> None:
        rng = self.rng
        wide = rng.random() < 0.25
        post, plate, mark = paint(rng, "pole"), paint(rng, "sign"), paint(rng, "sign")
        if rng.random() < 0.5:
            mark = (20.0,) * 3 if rng.random() < 0.5 else (240.0,) * 3
        middle, half = rng.uniform(2.2, 2.8), rng.uniform(0.7, 1.1)
        aspect = rng.uniform(1.6, 2.6) if wide else 1.0
        half = half * (1.5 if wide else 1.0)
        corners = 4 if wide else int(rng.choice([3, 4, 8, 24]))
        turn = np.pi / 4 if wide or (corners == 4 and rng.random() < 0.7) else -np.pi / 2
        round_ = turn + 2 * np.pi * np.arange(corners) / corners
        if corners == 8:
            round_ += np.pi / 8
        shape = np.stack([aspect * np.cos(round_), np.sin(round_)], axis=1)
        bars = int(rng.integers(1, 4))

        def paint_it() -> None:
            scale = self.camera.scale(z)
            column, foot = self.camera.point(x, 0, z)
            if not self.visible(column, aspect * half * scale):
                return
            level = foot - (middle + half) * scale
            thick = max(0.4 * scale, 1)
            posts = (-0.6 * aspect * half * scale, 0.6 * aspect * half * scale) if wide else (0,)
            for offset in posts:
                self.canvas.box(
                    column + offset - thick / 2,
                    level,
                    column + offset + thick / 2,
                    foot,
                    self.seen(post, z),
                    POLE,
                )
            radius = half * scale
            if radius < 1:
                self.canvas.box(
                    column - radius,
                    level - radius,
                    column + radius,
                    level + radius,
                    self.seen(plate, z),
                    SIGN,
                )
                return
            for size, color in ((1.0, mark), (0.8, plate)):
                outline = np.rint((column, level) + size * radius * shape).astype(np.int32)
                self.canvas.polygons([outline], self.seen(color, z), SIGN)
            for bar in range(bars):
                line = level + radius * 0.22 * (2 * bar - bars + 1)
                reach = 0.4 * aspect * radius
                self.canvas.box(
                    column - reach,
                    line - 0.07 * radius,
                    column + reach,
                    line + 0.07 * radius,
                    self.seen(mark, z),
                )

        self.add(z, paint_it)
