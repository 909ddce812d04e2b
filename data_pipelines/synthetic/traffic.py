"""What moves on a street: cars and people."""

import numpy as np

from data_pipelines.synthetic.light import dim, paint
from data_pipelines.synthetic.plan import CAR, END, PERSON, StreetPlan

_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 10, endpoint=False)) for f in (np.cos, np.sin)])


class Traffic(StreetPlan):
    """Plans cars and people."""

    def _plan_cars(self) -> None:
        rng = self.rng
        for side in (0, 1):
            if rng.random() < 0.65:
                z = rng.uniform(3, 14)
                while z < END and rng.random() < 0.8:
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
