"""Color, texture and light of the drawn streets: chosen so that color tells little."""

import colorsys
from functools import cache

import cv2
import numpy as np

from data_pipelines.labels import SCENES
from data_pipelines.synthetic.canvas import Shade

_CLASSES = len(SCENES.names)

# Usual ranges of hue, saturation and value; they overlap, and a surprise ignores them.
_USUAL = {
    "road": ((0.55, 0.75), (0.0, 0.12), (0.25, 0.45)),
    "sidewalk": ((0.03, 0.12), (0.15, 0.35), (0.6, 0.9)),
    "building": ((0.0, 0.13), (0.15, 0.7), (0.2, 0.75)),
    "vegetation": ((0.2, 0.38), (0.45, 0.9), (0.2, 0.6)),
    "sky": ((0.5, 0.66), (0.15, 0.6), (0.7, 1.0)),
    "pole": ((0.5, 0.8), (0.0, 0.2), (0.05, 0.25)),
    "sign": ((0.0, 1.0), (0.8, 1.0), (0.75, 1.0)),
    "car": ((0.5, 1.1), (0.3, 0.9), (0.2, 0.9)),
    "person": ((0.75, 1.0), (0.4, 1.0), (0.25, 0.95)),
}
_ANY = ((0.0, 1.0), (0.0, 0.9), (0.15, 0.95))
_SURPRISE = 0.04


def paint(rng: np.random.Generator, kind: str) -> Shade:
    """Draws a color, RGB in 0..255, for a class name of `SCENES`."""
    surprise, *drawn = rng.random(4).tolist()
    ranges = _ANY if surprise < _SURPRISE else _USUAL[kind]
    hue, saturation, value = (
        low + (high - low) * t for (low, high), t in zip(ranges, drawn, strict=True)
    )
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def blend(first: Shade, second: Shade, share: float) -> Shade:
    """Mixes two colors; `share` is that of the second."""
    keep = 1 - share
    return (
        keep * first[0] + share * second[0],
        keep * first[1] + share * second[1],
        keep * first[2] + share * second[2],
    )


def dim(color: Shade, light: float) -> Shade:
    """Multiplies a color by a light, no brighter than white."""
    red, green, blue = color
    return min(red * light, 255), min(green * light, 255), min(blue * light, 255)


@cache
def _noise(height: int, width: int) -> dict[str, np.ndarray]:
    """Noise of three grains in about -1..1, twice the image's size so that crops differ."""
    rng = np.random.default_rng(0)
    shape = (2 * height, 2 * width)
    white = rng.standard_normal(shape, np.float32)

    def smooth(cell: float) -> np.ndarray:
        small = rng.standard_normal(
            (max(2, round(shape[0] / cell)), max(2, round(shape[1] / cell))), np.float32
        )
        return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)

    unit = height / 128
    leaves = 0.6 * smooth(2.2 * unit) + 0.6 * smooth(5 * unit)
    clouds = 0.7 * smooth(40 * unit) + 0.4 * smooth(16 * unit) + 0.2 * smooth(7 * unit)
    return {"grain": white, "leaves": np.clip(leaves, -1.5, 1.5), "clouds": clouds}


def noise(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Cuts a random window, float32 `h w`, out of the "grain", "leaves" or "clouds" noise."""
    field = _noise(height, width)[kind]
    top, left = rng.integers(height + 1), rng.integers(width + 1)
    return field[top : top + height, left : left + width]


def develop(rng: np.random.Generator, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Gives flat colors their texture, then a random light, lens and sensor.

    Args:
        rng: the source of randomness.
        image: `h w 3` uint8, flat colors.
        label: `h w` uint8: texture goes by class.

    Returns:
        `h w 3` uint8.
    """
    height, width = label.shape
    grain, leaves, clouds = (
        noise(rng, kind, height, width) for kind in ("grain", "leaves", "clouds")
    )
    rough = rng.uniform(0.0, 0.05, _CLASSES).astype(np.float32)
    rough[SCENES.names.index("road")] = rng.uniform(0.04, 0.14)
    patchy = rng.uniform(0.03, 0.12, _CLASSES).astype(np.float32)
    leafy = np.zeros(_CLASSES, np.float32)
    leafy[SCENES.names.index("vegetation")] = rng.uniform(0.3, 0.5)
    texture = 1 + rough.take(label) * grain + patchy.take(label) * clouds
    texture += leafy.take(label) * leaves
    lit = cv2.multiply(image, cv2.merge([texture] * 3), dtype=cv2.CV_32F)

    tint = rng.uniform(0.9, 1.12, 3)
    gray = rng.uniform(0.0, 0.2)
    mix = (1 - gray) * np.eye(3) + gray / 3
    mix = (rng.uniform(0.75, 1.15) * tint[:, None] * mix).astype(np.float32)
    # The fourth column adds the sensor's noise.
    mix = np.c_[mix, np.full(3, rng.uniform(1.0, 3.5), np.float32)]
    lit = cv2.transform(cv2.merge([*cv2.split(lit), noise(rng, "grain", height, width)]), mix)
    if rng.random() < 0.7:
        lit = cv2.GaussianBlur(lit, (3, 3), rng.uniform(0.3, 0.8))
    curve = 255 * (np.arange(256) / 255) ** rng.uniform(0.75, 1.3)
    return cv2.LUT(cv2.convertScaleAbs(cv2.max(lit, 0)), curve.astype(np.uint8))
