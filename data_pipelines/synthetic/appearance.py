"""Color, texture, lighting and sensor of synthetic scenes.

Colors overlap between classes, so that color alone does not tell the class.
"""

import colorsys
from functools import cache

import cv2
import numpy as np

from data_pipelines.labels import SCENES
from data_pipelines.synthetic.canvas import Color

_NUM_CLASSES = len(SCENES.names)

# Ranges of hue, saturation and value.
_HSV_RANGES = {
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
_OUTLIER_HSV_RANGES = ((0.0, 1.0), (0.0, 0.9), (0.15, 0.95))
_OUTLIER_PROBABILITY = 0.04


def sample_color(rng: np.random.Generator, class_name: str) -> Color:
    """Samples an RGB color, 0..255, of a class of `SCENES`."""
    outlier, *fractions = rng.random(4).tolist()
    is_outlier = outlier < _OUTLIER_PROBABILITY
    ranges = _OUTLIER_HSV_RANGES if is_outlier else _HSV_RANGES[class_name]
    hue, saturation, value = (
        low + (high - low) * t for (low, high), t in zip(ranges, fractions, strict=True)
    )
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def blend_colors(first: Color, second: Color, weight: float) -> Color:
    """Blends two colors; `weight` is the weight of the second color."""
    rest = 1 - weight
    return (
        rest * first[0] + weight * second[0],
        rest * first[1] + weight * second[1],
        rest * first[2] + weight * second[2],
    )


def scale_brightness(color: Color, factor: float) -> Color:
    """Multiplies a color by a factor and clips it to 255."""
    red, green, blue = color
    return min(red * factor, 255), min(green * factor, 255), min(blue * factor, 255)


@cache
def _noise_fields(height: int, width: int) -> dict[str, np.ndarray]:
    """Returns noise of three grain sizes in about -1..1, of twice the image's size."""
    rng = np.random.default_rng(0)
    shape = (2 * height, 2 * width)
    white = rng.standard_normal(shape, np.float32)

    def smooth(cell_size: float) -> np.ndarray:
        coarse = rng.standard_normal(
            (max(2, round(shape[0] / cell_size)), max(2, round(shape[1] / cell_size))), np.float32
        )
        return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)

    unit = height / 128
    leaves = 0.6 * smooth(2.2 * unit) + 0.6 * smooth(5 * unit)
    clouds = 0.7 * smooth(40 * unit) + 0.4 * smooth(16 * unit) + 0.2 * smooth(7 * unit)
    return {"grain": white, "leaves": np.clip(leaves, -1.5, 1.5), "clouds": clouds}


def sample_noise(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Returns a random window, float32 `h w`, of the "grain", "leaves" or "clouds" noise."""
    field = _noise_fields(height, width)[kind]
    top, left = rng.integers(height + 1), rng.integers(width + 1)
    return field[top : top + height, left : left + width]


def postprocess(rng: np.random.Generator, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Adds textures by class, then a random white balance, saturation, noise, blur and gamma.

    `image` is `h w 3` uint8, as the result; `label` is `h w` uint8.
    """
    height, width = label.shape
    grain, leaves, clouds = (
        sample_noise(rng, kind, height, width) for kind in ("grain", "leaves", "clouds")
    )
    grain_weights = rng.uniform(0.0, 0.05, _NUM_CLASSES).astype(np.float32)
    grain_weights[SCENES.names.index("road")] = rng.uniform(0.04, 0.14)
    cloud_weights = rng.uniform(0.03, 0.12, _NUM_CLASSES).astype(np.float32)
    leaf_weights = np.zeros(_NUM_CLASSES, np.float32)
    leaf_weights[SCENES.names.index("vegetation")] = rng.uniform(0.3, 0.5)
    texture = 1 + grain_weights.take(label) * grain + cloud_weights.take(label) * clouds
    texture += leaf_weights.take(label) * leaves
    textured = cv2.multiply(image, cv2.merge([texture] * 3), dtype=cv2.CV_32F)

    white_balance = rng.uniform(0.9, 1.12, 3)
    desaturation = rng.uniform(0.0, 0.2)
    matrix = (1 - desaturation) * np.eye(3) + desaturation / 3
    matrix = (rng.uniform(0.75, 1.15) * white_balance[:, None] * matrix).astype(np.float32)
    # The fourth channel is the sensor noise.
    matrix = np.c_[matrix, np.full(3, rng.uniform(1.0, 3.5), np.float32)]
    sensor_noise = sample_noise(rng, "grain", height, width)
    exposed = cv2.transform(cv2.merge([*cv2.split(textured), sensor_noise]), matrix)
    if rng.random() < 0.7:
        exposed = cv2.GaussianBlur(exposed, (3, 3), rng.uniform(0.3, 0.8))
    gamma_table = 255 * (np.arange(256) / 255) ** rng.uniform(0.75, 1.3)
    return cv2.LUT(cv2.convertScaleAbs(cv2.max(exposed, 0)), gamma_table.astype(np.uint8))
