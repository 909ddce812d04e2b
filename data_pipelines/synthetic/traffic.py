"""Cars and persons of a street scene."""

import numpy as np

from data_pipelines.synthetic.appearance import sample_color, scale_brightness
from data_pipelines.synthetic.scene import CAR, MAX_DISTANCE, PERSON, Scene

_WHEEL_RADIUS = 0.32
_WHEEL_ANGLES = np.linspace(0, 2 * np.pi, 10, endpoint=False)


class Traffic(Scene):
    """Adds cars and persons."""

    def add_cars(self) -> None:
        """Adds rows of parked cars and a few cars on the road."""
        rng = self.rng
        for side in (0, 1):
            if rng.random() < 0.65:
                z = rng.uniform(3, 14)
                while z < MAX_DISTANCE and rng.random() < 0.8:
                    self._add_car(self.curb[side] + (1 - 2 * side) * 1.2, z)
                    z += rng.uniform(5.2, 14)
        for z in self.sample_distances(int(rng.integers(1, 4)), 5, 60):
            self._add_car(rng.uniform(self.curb[0] + 2.5, self.curb[1] - 2.5), z)

    def _add_car(self, x: float, z: float) -> None:
        """Adds a car seen from behind, its center at x and its rear at z."""
        rng = self.rng
        is_van = rng.random() < 0.2
        half, length = rng.uniform(0.8, 0.95), rng.uniform(3.6, 4.8)
        waist = rng.uniform(0.8, 1.0)
        height = rng.uniform(1.9, 2.8) if is_van else rng.uniform(1.4, 1.7)
        body, lights = sample_color(rng, "car"), sample_color(rng, "sign")
        glass = (rng.uniform(15, 90),) * 3 if rng.random() < 0.7 else sample_color(rng, "sky")
        visible_side = 1 if x < -self.camera.bend * z**2 else 0

        def draw() -> None:
            camera, canvas = self.camera, self.canvas
            tail = 0.0 if is_van else 0.12 * length
            hood = 0.12 * length if is_van else 0.3 * length
            roof_half = (0.93 if is_van else 0.8) * half
            # Height, rear z, front z and half width of four levels.
            levels = (
                (0.25, z, z + length, half),
                (waist, z, z + length, half),
                (waist, z + tail, z + length - hood, half),
                (height, z + 1.8 * tail, z + length - 1.7 * hood, roof_half),
            )
            corners = [
                (x + side * half_width, y, edge)
                for y, rear, front, half_width in levels
                for edge in (rear, front)
                for side in (-1, 1)
            ]
            pixels = camera.project(*np.array(corners).T)
            lower, cabin = pixels[:8], pixels[8:]
            rear_face = [0, 1, 5, 4]
            side_face = [visible_side + i for i in (0, 2, 6, 4)]
            canvas.polygons([lower[[0, 1, 3, 2]] + [0, 2]], self.shade((15.0, 15.0, 15.0), z))
            canvas.hull(lower, self.shade(body, z, 1.1), CAR)
            canvas.hull(cabin, self.shade(body, z, 1.2), CAR)
            canvas.polygons([lower[rear_face]], self.shade(body, z, self.ambient * 0.9))
            canvas.polygons([lower[side_face]], self.shade(body, z, self.side_light[visible_side]))
            for face in (cabin[rear_face], cabin[side_face]):
                window = (0.78 * face + 0.22 * face.mean(0)).astype(np.int32)
                canvas.polygons([window], self.shade(glass, z))
            self._draw_wheels(x + (2 * visible_side - 1) * half, z, length)
            if z > 40:
                return
            scale = camera.scale(z)
            for side in (-1, 1):
                column, row = camera.project_point(x + side * 0.78 * half, 0.72 * waist, z)
                top, bottom = row - 0.09 * scale, row + 0.09 * scale
                canvas.bar(column, top, bottom, 0.28 * scale, self.shade(lights, z, 1.2))

        self.add(z, draw)

    def _draw_wheels(self, x: float, z: float, length: float) -> None:
        """Draws the two wheels on the visible side of a car."""
        y = _WHEEL_RADIUS + _WHEEL_RADIUS * np.sin(_WHEEL_ANGLES)
        wheels = [
            self.camera.project(
                np.asarray(x), y, z + axle * length + _WHEEL_RADIUS * np.cos(_WHEEL_ANGLES)
            )
            for axle in (0.2, 0.8)
        ]
        self.canvas.polygons(wheels, self.shade((25.0, 25.0, 25.0), z), CAR)

    def add_persons(self) -> None:
        """Adds groups of persons on the sidewalks and the road."""
        rng = self.rng
        nearby = self.sample_distances(int(rng.integers(3, 7)), 3.5, 14)
        for z in nearby + self.sample_distances(int(rng.integers(0, 3)), 14, 70):
            if rng.random() < 0.8:
                side = int(rng.integers(2))
                x = rng.uniform(*sorted((self.curb[side], self.facade[side])))
            else:
                x = rng.uniform(*self.curb)
            for _ in range(rng.choice([1, 1, 2, 3])):
                self._add_person(x, z)
                x, z = x + rng.uniform(0.5, 0.9), z + rng.uniform(-0.3, 0.6)

    def _add_person(self, x: float, z: float) -> None:
        """Adds a child or an adult: two legs, two arms, torso, hair and face."""
        rng = self.rng
        height = rng.uniform(1.1, 1.35) if rng.random() < 0.15 else rng.uniform(1.55, 1.95)
        coat, trousers, hair = (sample_color(rng, "person") for _ in range(3))
        skin = scale_brightness((225.0, 175.0, 145.0), rng.uniform(0.35, 1.05))
        stride, build = rng.uniform(0.02, 0.14), rng.uniform(1.1, 1.5)
        hem = rng.uniform(0.3, 0.5)

        def draw() -> None:
            canvas, size = self.canvas, self.camera.scale(z) * height
            column, bottom = self.camera.project_point(x, 0, z)
            if not self.is_in_view(column, size):
                return

            def fill(
                corners: list[tuple[float, float]],
                color: tuple[float, float, float],
                brightness: float = 1.0,
            ) -> None:
                """Fills a polygon of (x, y) relative to the person's height."""
                pixels = [
                    (round(column + right * build * size), round(bottom - up * size))
                    for right, up in corners
                ]
                polygon = np.array(pixels, np.int32)
                canvas.polygons([polygon], self.shade(color, z, brightness), PERSON)

            if size < 7:
                top = bottom - size
                canvas.bar(column, top, bottom, 0.28 * size, self.shade(coat, z), PERSON)
                return
            for side in (-1, 1):
                foot = side * stride
                leg = [(side * 0.10, 0.5), (0.0, 0.5), (foot - 0.03, 0), (foot + 0.04, 0)]
                fill(leg, trousers, 1 - 0.15 * side)
                shoulder = [(side * 0.12, 0.83), (side * 0.17, 0.8)]
                hand = [
                    (side * (0.14 + stride / 2), 0.45),
                    (side * (0.09 + stride / 2), 0.45),
                ]
                fill(shoulder + hand, coat, 0.8)
            fill([(-0.13, 0.84), (0.13, 0.84), (0.11, hem), (-0.11, hem)], coat)
            canvas.disc(column, bottom - 0.93 * size, 0.075 * size, self.shade(hair, z), PERSON)
            canvas.disc(column, bottom - 0.905 * size, 0.055 * size, self.shade(skin, z), PERSON)

        self.add(z, draw)
