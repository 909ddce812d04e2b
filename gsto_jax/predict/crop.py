"""Persons cut out of a picture, as the network sees them in a test (needs OpenCV)."""

from collections.abc import Sequence

import cv2
import numpy as np

from gsto_jax.segmentation.protocol import Size


def crop_person(
    image: np.ndarray, box: Sequence[float], size: Size, padding: float
) -> dict[str, np.ndarray]:
    """Cuts a person out: the box widened to the proportions of the size, and padded.

    Args:
      image: `h w 3` uint8 RGB.
      box: x, y, w, h in its pixels.
      size: (h, w) of the result.
      padding: factor of both sides.

    Returns:
      "image" `h w 3` uint8, 0 outside the picture; "centre" and "frame" `2` float32 (see
      `gsto_jax.pose.heatmaps.to_picture`).
    """
    x, y, width, height = (float(value) for value in box)
    width, height = max(1.0, width), max(1.0, height)  # a frame of nothing has no joints
    aspect = size[1] / size[0]
    frame = padding * np.array([max(width, height * aspect), max(height, width / aspect)])
    centre = np.array([x + float(box[2]) / 2, y + float(box[3]) / 2])
    factor = size[1] / frame[0]
    shift = np.array([size[1] / 2, size[0] / 2]) - factor * centre
    matrix = np.concatenate([factor * np.eye(2), shift[:, None]], axis=1)
    return {
        "image": cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR),
        "centre": centre.astype(np.float32),
        "frame": frame.astype(np.float32),
    }
