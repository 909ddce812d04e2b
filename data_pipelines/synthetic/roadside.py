"""Buildings, parks and trees behind the sidewalks."""

import numpy as np

from data_pipelines.synthetic.appearance import sample_color, scale_brightness
from data_pipelines.synthetic.canvas import Color
from data_pipelines.synthetic.scene import (
    BUILDING,
    MAX_DISTANCE,
    MIN_DISTANCE,
    VEGETATION,
    Scene,
)


class Roadside(Scene):
    """Adds buildings and parks along the street; side 0 is left, 1 right."""

    def add_roadside(self, side: int) -> None:
        """Adds buildings and parks along one side, with a gap for a side street."""
        rng = self.rng
        park_probability = rng.uniform(0.1, 0.5)
        z = MIN_DISTANCE
        while z < MAX_DISTANCE:
            depth = rng.uniform(7, 22)
            is_crossed = z < self.side_street + 9 < z + depth + 9
            setback = rng.uniform(0, 5) if rng.random() < 0.35 else 0.0
            x = self.facade[side] + (2 * side - 1) * setback
            kind = rng.random()
            if is_crossed:
                depth = max(self.side_street + 9 - z, 1.0)
            elif kind < park_probability:
                self._add_park(side, x, z, z + depth)
            elif kind < 0.93:
                self._add_building(side, x, z, z + depth)
            z += depth + (rng.uniform(1, 5) if rng.random() < 0.3 else 0)

    def _add_building(self, side: int, x: float, z0: float, z1: float) -> None:
        """Adds a building with its front at x, from z0 to z1."""
        rng = self.rng
        height = rng.uniform(4, 9) if rng.random() < 0.5 else rng.uniform(9, 26)
        back = x + (2 * side - 1) * rng.uniform(8, 16)
        wall = sample_color(rng, "building")
        glass = (
            scale_brightness(wall, rng.uniform(0.25, 0.7))
            if rng.random() < 0.6
            else sample_color(rng, "sky")
        )
        front_light, gable_light = self.side_light[side], self.ambient * rng.uniform(0.7, 1.1)
        floor_height, bay = rng.uniform(2.7, 4), rng.uniform(1.8, 4)
        window_width, window_height = bay * rng.uniform(0.35, 0.8), rng.uniform(0.35, 0.75)
        window_height *= floor_height
        roof = rng.uniform(1, 3.5) if height < 12 and rng.random() < 0.6 else 0.0
        tiles = sample_color(rng, "building")

        def fill(points: list[tuple[float, float, float]], color: Color, light: float) -> None:
            polygon = self.camera.project_points(points)
            self.canvas.polygons([polygon], self.shade(color, z0, light), BUILDING)

        def draw() -> None:
            if roof:
                ridge, top = (x + back) / 2, height + roof
                slope = [(x, height, z0), (x, height, z1), (ridge, top, z1), (ridge, top, z0)]
                fill(slope, tiles, 1.0)
                fill([(x, height, z0), (back, height, z0), (ridge, top, z0)], wall, gable_light)
            gable = [(x, 0, z0), (back, 0, z0), (back, height, z0), (x, height, z0)]
            fill(gable, wall, gable_light)
            front = [(x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0)]
            fill(front, wall, front_light)
            if z0 > 60:
                return
            bottoms = np.arange(0.9, height - 2, floor_height)
            starts = np.arange(z0 + 0.5, z1 - window_width, bay)
            y, z = _window_grid(bottoms, window_height, starts, window_width)
            draw_windows(np.asarray(x), y, z, nearest=z0 + 0.5)
            left, right = sorted((x, back))
            starts = np.arange(left + 0.6, right - window_width, bay)
            y, columns = _window_grid(bottoms, window_height, starts, window_width)
            draw_windows(columns, y, np.asarray(z0), nearest=z0)

        def draw_windows(x: np.ndarray, y: np.ndarray, z: np.ndarray, nearest: float) -> None:
            if y.size and x.size and z.size:
                windows = self.camera.project(x, y, z).reshape(-1, 4, 2)
                self.canvas.polygons(list(windows), self.shade(glass, nearest))

        self.add(z1, draw)

    def _add_park(self, side: int, x: float, z0: float, z1: float) -> None:
        """Adds trees, and perhaps a hedge, from z0 to z1."""
        rng = self.rng
        outward = 2 * side - 1
        height = rng.uniform(0.6, 2.5)
        leaves = sample_color(rng, "vegetation")

        def draw_hedge() -> None:
            z = np.linspace(z0, z1, 9)
            tops = height * rng.uniform(0.8, 1.15, 9)
            back = x + outward * 8
            upper = self.camera.project(np.full(9, x), tops, z)
            lower = self.camera.project_points(
                [(x, 0, z1), (x, 0, z0), (back, 0, z0), (back, height, z0)]
            )
            outline = np.concatenate([upper, lower])
            color = self.shade(leaves, z0, self.side_light[side])
            self.canvas.polygons([outline], color, VEGETATION)

        if rng.random() < 0.6:
            self.add(z1, draw_hedge)
        for z in np.arange(z0 + rng.uniform(0, 4), z1, rng.uniform(4, 9)):
            self.add_tree(x + outward * rng.uniform(0.5, 5), float(z))

    def add_tree(self, x: float, z: float) -> None:
        """Adds a tree: a trunk, and a crown of discs that are brighter towards the top."""
        rng = self.rng
        height = rng.uniform(3, 10)
        spread = height * rng.uniform(0.2, 0.42)
        leaves, bark = sample_color(rng, "vegetation"), sample_color(rng, "pole")
        is_near = self.camera.scale(z) * spread > 8
        count = 10 if is_near else 5
        radius, angle = spread * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
        offsets = (radius * np.cos(angle)).tolist()
        heights = np.sort(0.85 * radius * np.sin(angle)).tolist()
        radii = (spread * rng.uniform(0.28 if is_near else 0.4, 0.55, count)).tolist()

        def draw() -> None:
            scale = self.camera.scale(z)
            column, row = self.camera.project_point(x, 0, z)
            if not self.is_in_view(column, 1.6 * spread * scale):
                return
            top = row - (height - spread) * scale
            trunk = max(0.3, 0.05 * height) * scale
            self.canvas.bar(column, top, row, trunk, self.shade(bark, z), VEGETATION)
            for i in range(count):
                center = column + offsets[i] * scale, top - heights[i] * scale
                color = self.shade(leaves, z, 0.6 + 0.6 * i / count)
                self.canvas.disc(*center, radii[i] * scale, color, VEGETATION)

        self.add(z, draw)


def _window_grid(
    bottoms: np.ndarray, height: float, starts: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns vertical and horizontal coordinates of the corners of a grid of windows."""
    horizontal = starts[:, None, None] + width * np.array([0, 1, 1, 0])
    vertical = bottoms[None, :, None] + height * np.array([0, 0, 1, 1])
    return vertical, horizontal
