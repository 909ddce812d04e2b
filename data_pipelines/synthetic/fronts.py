"""What lines a street behind the sidewalks: buildings, parks and trees."""

import numpy as np

from data_pipelines.synthetic.canvas import Shade
from data_pipelines.synthetic.light import dim, paint
from data_pipelines.synthetic.plan import BUILDING, END, NEAR, VEGETATION, StreetPlan


class Fronts(StreetPlan):
    """Plans what lines the street."""

    def _plan_fronts(self, side: int) -> None:
        rng = self.rng
        green = rng.uniform(0.1, 0.5)
        z = NEAR
        while z < END:
            depth = rng.uniform(7, 22)
            crossed = z < self.crossing + 9 < z + depth + 9
            setback = rng.uniform(0, 5) if rng.random() < 0.35 else 0.0
            x = self.front[side] + (2 * side - 1) * setback
            kind = rng.random()
            if crossed:
                depth = max(self.crossing + 9 - z, 1.0)
            elif kind < green:
                self._plan_park(side, x, z, z + depth)
            elif kind < 0.93:
                self._plan_building(side, x, z, z + depth)
            z += depth + (rng.uniform(1, 5) if rng.random() < 0.3 else 0)

    def _plan_building(self, side: int, x: float, z0: float, z1: float) -> None:
        rng = self.rng
        tall = rng.uniform(4, 9) if rng.random() < 0.5 else rng.uniform(9, 26)
        out = x + (2 * side - 1) * rng.uniform(8, 16)
        wall = paint(rng, "building")
        glass = dim(wall, rng.uniform(0.25, 0.7)) if rng.random() < 0.6 else paint(rng, "sky")
        facing, gable = self.sun[side], self.ambient * rng.uniform(0.7, 1.1)
        storey, bay = rng.uniform(2.7, 4), rng.uniform(1.8, 4)
        pane = (rng.uniform(0.35, 0.8), rng.uniform(0.35, 0.75))
        roof = rng.uniform(1, 3.5) if tall < 12 and rng.random() < 0.6 else 0.0
        tiles = paint(rng, "building")

        def paint_it() -> None:
            camera, canvas = self.camera, self.canvas
            front = [(x, 0, z0), (x, 0, z1), (x, tall, z1), (x, tall, z0)]
            end = [(x, 0, z0), (out, 0, z0), (out, tall, z0), (x, tall, z0)]
            if roof:
                ridge = (x + out) / 2
                slope = [
                    (x, tall, z0),
                    (x, tall, z1),
                    (ridge, tall + roof, z1),
                    (ridge, tall + roof, z0),
                ]
                canvas.polygons([camera.points(slope)], self.seen(tiles, z0), BUILDING)
                gable_top = [(x, tall, z0), (out, tall, z0), (ridge, tall + roof, z0)]
                canvas.polygons([camera.points(gable_top)], self.seen(wall, z0, gable), BUILDING)
            canvas.polygons([camera.points(end)], self.seen(wall, z0, gable), BUILDING)
            canvas.polygons([camera.points(front)], self.seen(wall, z0, facing), BUILDING)
            if z0 > 60:
                return
            bottoms = np.arange(0.9, tall - 2, storey)
            starts = np.arange(z0 + 0.5, z1 - bay * pane[0], bay)
            self._paint_panes(x, None, starts, bay * pane[0], bottoms, storey * pane[1], glass)
            low, high = sorted((x, out))
            starts = np.arange(low + 0.6, high - bay * pane[0], bay)
            self._paint_panes(None, z0, starts, bay * pane[0], bottoms, storey * pane[1], glass)

        self.add(z1, paint_it)

    def _paint_panes(
        self,
        x: float | None,
        z: float | None,
        starts: np.ndarray,
        length: float,
        bottoms: np.ndarray,
        rise: float,
        glass: Shade,
    ) -> None:
        """Fills a grid of windows: along z on the plane x, or along x on the plane z."""
        if not len(starts) or not len(bottoms):
            return
        along = starts[:, None, None] + length * np.array([0, 1, 1, 0])
        up = bottoms[None, :, None] + rise * np.array([0, 0, 1, 1])
        if z is None:
            panes, near = self.camera.project(np.asarray(x), up, along), float(starts[0])
        else:
            panes, near = self.camera.project(along, up, np.asarray(z)), z
        self.canvas.polygons(list(panes.reshape(-1, 4, 2)), self.seen(glass, near))

    def _plan_park(self, side: int, x: float, z0: float, z1: float) -> None:
        rng = self.rng
        outward = 2 * side - 1
        hedge = rng.uniform(0.6, 2.5)
        leaf = paint(rng, "vegetation")

        def paint_hedge() -> None:
            z = np.linspace(z0, z1, 9)
            tops = hedge * rng.uniform(0.8, 1.15, 9)
            upper = self.camera.project(np.full(9, x), tops, z)
            lower = self.camera.points([(x, 0, z1), (x, 0, z0), (x + outward * 8, 0, z0)])
            end = self.camera.points([(x + outward * 8, hedge, z0)])
            outline = np.concatenate([upper, lower, end])
            self.canvas.polygons([outline], self.seen(leaf, z0, self.sun[side]), VEGETATION)

        if rng.random() < 0.6:
            self.add(z1, paint_hedge)
        for z in np.arange(z0 + rng.uniform(0, 4), z1, rng.uniform(4, 9)):
            self._plan_tree(x + outward * rng.uniform(0.5, 5), float(z))

    def _plan_tree(self, x: float, z: float) -> None:
        rng = self.rng
        tall = rng.uniform(3, 10)
        spread = tall * rng.uniform(0.2, 0.42)
        leaf, bark = paint(rng, "vegetation"), paint(rng, "pole")
        near = self.camera.scale(z) * spread > 8
        count = 10 if near else 5
        reach, angle = spread * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
        across = (reach * np.cos(angle)).tolist()
        up = np.sort(0.85 * reach * np.sin(angle)).tolist()
        sizes = (spread * rng.uniform(0.28 if near else 0.4, 0.55, count)).tolist()

        def paint_it() -> None:
            scale = self.camera.scale(z)
            column, row = self.camera.point(x, 0, z)
            if not self.visible(column, 1.6 * spread * scale):
                return
            top = row - (tall - spread) * scale
            trunk = max(0.3, 0.05 * tall) * scale
            self.canvas.box(
                column - trunk / 2, top, column + trunk / 2, row, self.seen(bark, z), VEGETATION
            )
            for i in range(count):
                center = column + across[i] * scale, top - up[i] * scale
                shade = self.seen(leaf, z, 0.6 + 0.6 * i / count)
                self.canvas.disc(*center, sizes[i] * scale, shade, VEGETATION)

        self.add(z, paint_it)
