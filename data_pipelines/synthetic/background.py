"""Sky, ground and skyline of a street scene."""

import numpy as np

from data_pipelines.labels import SCENES
from data_pipelines.synthetic.appearance import sample_color, sample_noise
from data_pipelines.synthetic.scene import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION, Scene


class Background(Scene):
    """Draws the sky, the ground and the skyline behind all objects."""

    def draw_sky(self) -> None:
        """Draws a gradient from the zenith to the haze at the horizon, and clouds."""
        rng, (height, width) = self.rng, self.canvas.label.shape
        height = min(height, max(2, round(self.camera.horizon) + 2))
        gradient = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        zenith, horizon = (np.array(color, np.float32) for color in (self.sky, self.haze))
        cloud_brightness = np.float32(rng.uniform(120, 255))
        cover = rng.uniform(0, 0.8) * sample_noise(rng, "clouds", height, width)
        cover = np.clip(cover, 0, 0.8)[..., None]
        clear = zenith + (horizon - zenith) * gradient
        self.canvas.image[:height] = clear + (cloud_brightness - clear) * cover
        self.canvas.label[:] = SKY

    def draw_ground(self) -> None:
        """Draws road, sidewalks and grass, with markings, tiles, curbs, shadows and haze."""
        rng, (height, width) = self.rng, self.canvas.label.shape
        first, x, z = self.camera.ground(height, width)
        label = np.full(x.shape, VEGETATION, np.uint8)
        label[(x > self.facade[0] - 1.5) & (x < self.facade[1] + 1.5)] = SIDEWALK
        road = (x > self.curb[0]) & (x < self.curb[1])
        road |= (z > self.side_street) & (z < self.side_street + 9)
        label[road] = ROAD
        colors = np.zeros((len(SCENES.names), 3), np.float32)
        for train_id in (ROAD, SIDEWALK, VEGETATION):
            colors[train_id] = sample_color(rng, SCENES.names[train_id])
        if rng.random() < 0.15:
            colors[SIDEWALK] = colors[ROAD] * rng.uniform(0.85, 1.2)

        brightness = np.ones(x.shape, np.float32)
        brightness[road & self._lane_markings(x, z)] = rng.uniform(1.3, 2.2)
        sidewalk = label == SIDEWALK
        tile = rng.uniform(0.8, 1.6)
        seams = (np.mod(x, tile) < 0.05 + z / 400) | (np.mod(z, tile) < 0.04 + z / 200)
        brightness[sidewalk & seams & (z < 25)] = rng.uniform(0.6, 0.85)
        for curb in self.curb:
            brightness[sidewalk & (np.abs(x - curb) < 0.25)] = rng.choice([0.55, 1.5])
        if rng.random() < 0.6:
            side = rng.integers(2)
            edge = self.curb[side] * rng.uniform(-0.6, 1.3)
            shadow = x < edge if side == 0 else x > edge
            brightness[shadow & (np.mod(z, 23) < rng.uniform(12, 23))] *= rng.uniform(0.4, 0.75)
        transmission = np.exp(-z / self.visibility)
        haze = (1 - transmission)[..., None] * np.array(self.haze, np.float32)
        ground = colors.take(label, axis=0) * (brightness * transmission)[..., None] + haze
        self.canvas.image[first:] = np.minimum(ground, 255)
        self.canvas.label[first:] = label

    def _lane_markings(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Returns where a center line, side lines or a crosswalk are painted, bool `h w`."""
        rng = self.rng
        marked = np.zeros(x.shape, bool)
        if rng.random() < 0.8:
            middle = rng.uniform(0.3, 0.7) * (self.curb[1] - self.curb[0]) + self.curb[0]
            marked |= (np.abs(x - middle) < 0.09 + z / 600) & (np.mod(z, 7) < rng.choice([3.5, 7]))
        if rng.random() < 0.5:
            for curb, inward in zip(self.curb, (0.4, -0.4), strict=True):
                marked |= np.abs(x - curb - inward) < 0.08
        if rng.random() < 0.35:
            start = rng.uniform(5, 20)
            marked |= (z > start) & (z < start + 3) & (np.mod(x, 1.1) < 0.55)
        return marked

    def draw_skyline(self) -> None:
        """Draws distant buildings or trees at the horizon."""
        rng, width = self.rng, self.canvas.label.shape[1]
        train_id = BUILDING if rng.random() < 0.5 else VEGETATION
        color = self.shade(sample_color(rng, SCENES.names[train_id]), 0.6 * self.visibility)
        bottom = round(self.camera.horizon) + 1
        columns = np.linspace(-1, width, rng.integers(8, 30))
        tops = bottom - 1 - rng.uniform(0.01, 0.09, len(columns)) * width * rng.uniform(0.3, 1)
        if train_id == BUILDING:
            columns, tops = np.repeat(columns, 2)[1:-1], np.repeat(tops[1:], 2)
        outline = np.stack([np.r_[-1, columns, width], np.r_[bottom, tops, bottom]], axis=1)
        self.canvas.polygons([np.rint(outline).astype(np.int32)], color, train_id)
