"""Draws one street: its ground, its fronts, and the things that stand and move on it."""

from collections.abc import Callable
from math import exp, inf

import numpy as np

from data_pipelines.labels import SCENES
from data_pipelines.synthetic.canvas import Camera, Canvas, Shade
from data_pipelines.synthetic.light import blend, develop, dim, noise, paint

ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, POLE, SIGN, CAR, PERSON = range(len(SCENES.names))

_NEAR = 2.5
_END = 75.0
_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 10, endpoint=False)) for f in (np.cos, np.sin)])


def draw_street(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a street as seen from a car.

    Args:
        rng: decides everything.
        height: of the picture.
        width: of the picture.

    Returns:
        The image, `h w 3` uint8 RGB, and its label, `h w` uint8 ids of `SCENES`.
    """
    street = _Street(rng, height, width)
    street.draw()
    return develop(rng, street.canvas.image, street.canvas.label), street.canvas.label


class _Street:
    """The plan of a street, and a painter who works from the far end to the near one."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.canvas = Canvas(height, width)
        self.camera = Camera(
            focal=width * rng.uniform(0.55, 0.9),
            centre=width * rng.uniform(0.3, 0.7),
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

    def add(self, z: float, paint_it: Callable[[], None]) -> None:
        self.things.append((z, paint_it))

    def seen(self, colour: Shade, z: float, light: float = 1.0) -> Shade:
        """Returns a colour as it looks in this light from this distance."""
        return dim(blend(dim(colour, light), self.haze, 1 - exp(-z / self.sight)), 1.0)

    def visible(self, column: float, reach: float) -> bool:
        """Tells whether something around this column shows in the picture."""
        return -reach < column < self.canvas.label.shape[1] + reach

    # Backdrop

    def _paint_sky(self) -> None:
        rng, (height, width) = self.rng, self.canvas.label.shape
        height = min(height, max(2, round(self.camera.horizon) + 2))
        fade = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        high, low = (np.array(colour, np.float32) for colour in (self.sky, self.haze))
        bright = np.float32(rng.uniform(120, 255))
        cover = rng.uniform(0, 0.8) * noise(rng, "clouds", height, width)
        cover = np.clip(cover, 0, 0.8)[..., None]
        base = high + (low - high) * fade
        self.canvas.image[:height] = base + (bright - base) * cover
        self.canvas.label[:] = SKY

    def _paint_ground(self) -> None:
        rng, (height, width) = self.rng, self.canvas.label.shape
        first, x, z = self.camera.ground(height, width)
        label = np.full(x.shape, VEGETATION, np.uint8)
        label[(x > self.front[0] - 1.5) & (x < self.front[1] + 1.5)] = SIDEWALK
        road = (x > self.kerb[0]) & (x < self.kerb[1])
        road |= (z > self.crossing) & (z < self.crossing + 9)
        label[road] = ROAD
        colours = np.zeros((len(SCENES.names), 3), np.float32)
        for kind in (ROAD, SIDEWALK, VEGETATION):
            colours[kind] = paint(rng, SCENES.names[kind])
        if rng.random() < 0.15:
            colours[SIDEWALK] = colours[ROAD] * rng.uniform(0.85, 1.2)

        light = np.ones(x.shape, np.float32)
        light[road & self._markings(x, z)] = rng.uniform(1.3, 2.2)
        walk = label == SIDEWALK
        tile = rng.uniform(0.8, 1.6)
        seams = (np.mod(x, tile) < 0.05 + z / 400) | (np.mod(z, tile) < 0.04 + z / 200)
        light[walk & seams & (z < 25)] = rng.uniform(0.6, 0.85)
        for kerb in self.kerb:
            light[walk & (np.abs(x - kerb) < 0.25)] = rng.choice([0.55, 1.5])
        if rng.random() < 0.6:
            side = rng.integers(2)
            reach = self.kerb[side] * rng.uniform(-0.6, 1.3)
            shade = x < reach if side == 0 else x > reach
            light[shade & (np.mod(z, 23) < rng.uniform(12, 23))] *= rng.uniform(0.4, 0.75)
        clear = np.exp(-z / self.sight)
        haze = (1 - clear)[..., None] * np.array(self.haze, np.float32)
        ground = colours.take(label, axis=0) * (light * clear)[..., None] + haze
        self.canvas.image[first:] = np.minimum(ground, 255)
        self.canvas.label[first:] = label

    def _markings(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        rng = self.rng
        marks = np.zeros(x.shape, bool)
        if rng.random() < 0.8:
            middle = rng.uniform(0.3, 0.7) * (self.kerb[1] - self.kerb[0]) + self.kerb[0]
            marks |= (np.abs(x - middle) < 0.09 + z / 600) & (np.mod(z, 7) < rng.choice([3.5, 7]))
        if rng.random() < 0.5:
            for kerb, inward in zip(self.kerb, (0.4, -0.4), strict=True):
                marks |= np.abs(x - kerb - inward) < 0.08
        if rng.random() < 0.35:
            start = rng.uniform(5, 20)
            marks |= (z > start) & (z < start + 3) & (np.mod(x, 1.1) < 0.55)
        return marks

    def _paint_skyline(self) -> None:
        rng, width = self.rng, self.canvas.label.shape[1]
        kind = BUILDING if rng.random() < 0.5 else VEGETATION
        colour = self.seen(paint(rng, SCENES.names[kind]), 0.6 * self.sight)
        foot = round(self.camera.horizon) + 1
        steps = np.linspace(-1, width, rng.integers(8, 30))
        tops = foot - 1 - rng.uniform(0.01, 0.09, len(steps)) * width * rng.uniform(0.3, 1)
        if kind == BUILDING:
            steps, tops = np.repeat(steps, 2)[1:-1], np.repeat(tops[1:], 2)
        outline = np.stack([np.r_[-1, steps, width], np.r_[foot, tops, foot]], axis=1)
        self.canvas.polygons([np.rint(outline).astype(np.int32)], colour, kind)

    # Fronts: what lines the street behind the sidewalks

    def _plan_fronts(self, side: int) -> None:
        rng = self.rng
        green = rng.uniform(0.1, 0.5)
        z = _NEAR
        while z < _END:
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
                centre = column + across[i] * scale, top - up[i] * scale
                shade = self.seen(leaf, z, 0.6 + 0.6 * i / count)
                self.canvas.disc(*centre, sizes[i] * scale, shade, VEGETATION)

        self.add(z, paint_it)

    # Furniture: poles, signs and trees along the kerb

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

    def _distances(self, count: int, near: float, far: float) -> list[float]:
        """Draws distances of which each doubling holds equally many."""
        return np.exp(self.rng.uniform(np.log(near), np.log(far), count)).tolist()

    def _plan_lamp(
        self,
        x: float,
        z: float,
        outward: int,
        colour: Shade,
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
            shade = self.seen(colour, z)
            self.canvas.box(column - half, top, column + half, foot, shade, POLE)
            self.canvas.box(column - half, top, column - half / 3, foot, self.seen(colour, z, 1.4))
            if arm:
                end = (column - outward * 1.6 * scale, top - 0.3 * scale)
                self.canvas.line((column, top), end, thick * scale * 0.7, shade, POLE)
                self.canvas.disc(*end, 0.22 * scale, self.seen(colour, z, 1.3), POLE)

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
            for size, colour in ((1.0, mark), (0.8, plate)):
                outline = np.rint((column, level) + size * radius * shape).astype(np.int32)
                self.canvas.polygons([outline], self.seen(colour, z), SIGN)
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

    # Traffic

    def _plan_cars(self) -> None:
        rng = self.rng
        for side in (0, 1):
            if rng.random() < 0.65:
                z = rng.uniform(3, 14)
                while z < _END and rng.random() < 0.8:
                    self._plan_car(self.kerb[side] + (1 - 2 * side) * 1.2, z)
                    z += rng.uniform(5.2, 14)
        for z in self._distances(int(rng.integers(1, 4)), 5, 60):
            lane = rng.uniform(self.kerb[0] + 2.5, self.kerb[1] - 2.5)
            self._plan_car(lane, z)

    def _plan_car(self, x: float, z: float) -> None:
        rng = self.rng
        van = rng.random() < 0.2
        half, length = rng.uniform(0.8, 0.95), rng.uniform(3.6, 4.8)
        waist = rng.uniform(0.8, 1.0)
        tall = rng.uniform(1.9, 2.8) if van else rng.uniform(1.4, 1.7)
        body, lights = paint(rng, "car"), paint(rng, "sign")
        glass = (rng.uniform(15, 90),) * 3 if rng.random() < 0.7 else paint(rng, "sky")
        facing = 1 if x < -self.camera.bend * z**2 else -1

        def paint_it() -> None:
            camera, canvas = self.camera, self.canvas
            flank, far = x + facing * half, z + length
            tail = 0.0 if van else 0.12 * length
            hood = 0.12 * length if van else 0.3 * length
            inset = 0.93 if van else 0.8
            # Four levels of a rear and a front edge, each from left to right.
            levels = (
                (0.25, z, far, half),
                (waist, z, far, half),
                (waist, z + tail, far - hood, half),
                (tall, z + 1.8 * tail, far - 1.7 * hood, inset * half),
            )
            corners = [
                (x + side * reach, up, at)
                for up, rear, front, reach in levels
                for at in (rear, front)
                for side in (-1, 1)
            ]
            pixels = camera.project(*np.array(corners).T)
            lower, upper = pixels[:8], pixels[8:]
            edge = (1 + facing) // 2
            rear_face, side_face = [0, 1, 5, 4], [edge, edge + 2, edge + 6, edge + 4]
            canvas.polygons([lower[[0, 1, 3, 2]] + [0, 2]], self.seen((15.0, 15.0, 15.0), z))
            canvas.hull(lower, self.seen(body, z, 1.1), CAR)
            canvas.hull(upper, self.seen(body, z, 1.2), CAR)
            canvas.polygons([lower[rear_face]], self.seen(body, z, self.ambient * 0.9))
            canvas.polygons([lower[side_face]], self.seen(body, z, self.sun[edge]))
            panes = [
                (0.78 * face + 0.22 * face.mean(0)).astype(np.int32)
                for face in (upper[rear_face], upper[side_face])
            ]
            for pane in panes:
                canvas.polygons([pane], self.seen(glass, z))
            self._paint_wheels(flank, z, length)
            if z > 40:
                return
            scale = camera.scale(z)
            for end in (-1, 1):
                column, row = camera.point(x + end * 0.78 * half, 0.72 * waist, z)
                canvas.box(
                    column - 0.14 * scale,
                    row - 0.09 * scale,
                    column + 0.14 * scale,
                    row + 0.09 * scale,
                    self.seen(lights, z, 1.2),
                )

        self.add(z, paint_it)

    def _paint_wheels(self, x: float, z: float, length: float) -> None:
        dark = self.seen((25.0, 25.0, 25.0), z)
        wheels = [
            self.camera.project(
                np.asarray(x), 0.32 + 0.32 * _CIRCLE[1], z + at * length + 0.32 * _CIRCLE[0]
            )
            for at in (0.2, 0.8)
        ]
        self.canvas.polygons(wheels, dark, CAR)

    def _plan_people(self) -> None:
        rng = self.rng
        near = self._distances(int(rng.integers(3, 7)), 3.5, 14)
        for z in near + self._distances(int(rng.integers(0, 3)), 14, 70):
            if rng.random() < 0.8:
                side = int(rng.integers(2))
                x = rng.uniform(*sorted((self.kerb[side], self.front[side])))
            else:
                x = rng.uniform(*self.kerb)
            for _ in range(rng.choice([1, 1, 2, 3])):
                self._plan_person(x, z)
                x, z = x + rng.uniform(0.5, 0.9), z + rng.uniform(-0.3, 0.6)

    def _plan_person(self, x: float, z: float) -> None:
        rng = self.rng
        tall = rng.uniform(1.1, 1.35) if rng.random() < 0.15 else rng.uniform(1.55, 1.95)
        coat, trousers, hair = (paint(rng, "person") for _ in range(3))
        skin = dim((225.0, 175.0, 145.0), rng.uniform(0.35, 1.05))
        stride, build = rng.uniform(0.02, 0.14), rng.uniform(1.1, 1.5)
        hem = rng.uniform(0.3, 0.5)

        def paint_it() -> None:
            canvas, size = self.canvas, self.camera.scale(z) * tall
            column, foot = self.camera.point(x, 0, z)

            if not self.visible(column, size):
                return

            def limb(*corners: tuple[float, float]) -> np.ndarray:
                spots = [
                    (round(column + across * build * size), round(foot - up * size))
                    for across, up in corners
                ]
                return np.array(spots, np.int32)

            if size < 7:
                canvas.box(
                    column - 0.14 * size,
                    foot - size,
                    column + 0.14 * size,
                    foot,
                    self.seen(coat, z),
                    PERSON,
                )
                return
            for side in (-1, 1):
                leg = limb(
                    (side * 0.10, 0.5),
                    (side * 0.0, 0.5),
                    (side * stride - 0.03, 0),
                    (side * stride + 0.04, 0),
                )
                canvas.polygons([leg], self.seen(trousers, z, 1 - 0.15 * side), PERSON)
                arm = limb(
                    (side * 0.12, 0.83),
                    (side * 0.17, 0.8),
                    (side * (0.14 + stride / 2), 0.45),
                    (side * (0.09 + stride / 2), 0.45),
                )
                canvas.polygons([arm], self.seen(coat, z, 0.8), PERSON)
            torso = limb((-0.13, 0.84), (0.13, 0.84), (0.11, hem), (-0.11, hem))
            canvas.polygons([torso], self.seen(coat, z), PERSON)
            canvas.disc(column, foot - 0.93 * size, 0.075 * size, self.seen(hair, z), PERSON)
            canvas.disc(column, foot - 0.905 * size, 0.055 * size, self.seen(skin, z), PERSON)

        self.add(z, paint_it)
