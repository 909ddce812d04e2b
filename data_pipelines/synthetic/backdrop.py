"""What lies behind a street and under it: sky, ground and skyline."""

import numpy as np

from data_pipelines.labels import SCENES
from data_pipelines.synthetic.light import noise, paint
from data_pipelines.synthetic.plan import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION, StreetPlan


class Backdrop(StreetPlan):
    """Paints sky, ground and skyline."""

    def _paint_sky(self) -> None:
        rng, (height, width) = self.rng, self.canvas.label.shape
        height = min(height, max(2, round(self.camera.horizon) + 2))
        fade = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        high, low = (np.array(color, np.float32) for color in (self.sky, self.haze))
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
        colors = np.zeros((len(SCENES.names), 3), np.float32)
        for kind in (ROAD, SIDEWALK, VEGETATION):
            colors[kind] = paint(rng, SCENES.names[kind])
        if rng.random() < 0.15:
            colors[SIDEWALK] = colors[ROAD] * rng.uniform(0.85, 1.2)

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
        ground = colors.take(label, axis=0) * (light * clear)[..., None] + haze
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
        color = self.seen(paint(rng, SCENES.names[kind]), 0.6 * self.sight)
        foot = round(self.camera.horizon) + 1
        steps = np.linspace(-1, width, rng.integers(8, 30))
        tops = foot - 1 - rng.uniform(0.01, 0.09, len(steps)) * width * rng.uniform(0.3, 1)
        if kind == BUILDING:
            steps, tops = np.repeat(steps, 2)[1:-1], np.repeat(tops[1:], 2)
        outline = np.stack([np.r_[-1, steps, width], np.r_[foot, tops, foot]], axis=1)
        self.canvas.polygons([np.rint(outline).astype(np.int32)], color, kind)
