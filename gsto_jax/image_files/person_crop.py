"""Persons cut out of images: the frame around a box, and the affine map to the crop."""

from collections.abc import Sequence

import cv2
import numpy as np

Size = tuple[int, int]


def box_to_frame(
    box: Sequence[float] | np.ndarray, crop: Size, padding: float
) -> tuple[np.ndarray, np.ndarray]:
    """Widens a box to the crop's proportions, and pads it.

    Args:
      box: x, y, w, h in pixels.
      crop: (h, w) of the network's input.
      padding: factor of both sides.

    Returns:
      Center x, y and size w, h, float64.
    """
    # A frame of nothing would send joints to infinity.
    width, height = np.maximum(np.asarray(box[2:], np.float64), 1)
    aspect = crop[1] / crop[0]
    if width > aspect * height:
        height = width / aspect
    else:
        width = height * aspect
    center = np.array([box[0] + box[2] / 2, box[1] + box[3] / 2], np.float64)
    return center, padding * np.array([width, height])


def frame_to_crop(center: np.ndarray, width: float, rotation: float, crop: Size) -> np.ndarray:
    """Returns the affine map from an image to the crop of a frame.

    Args:
      center: x, y of the frame in the image, which becomes the center of the crop.
      width: of the frame in the image, which becomes that of the crop.
      rotation: in degrees, counter-clockwise as seen.
      crop: (h, w).

    Returns:
      `2 3` float64, for column vectors (x, y, 1).
    """
    factor = crop[1] / width
    cos, sin = np.cos(np.deg2rad(rotation)) * factor, np.sin(np.deg2rad(rotation)) * factor
    turn = np.array([[cos, sin], [-sin, cos]])
    shift = np.array([crop[1] / 2, crop[0] / 2]) - turn @ center
    return np.concatenate([turn, shift[:, None]], axis=1)


def crop_person(
    image: np.ndarray, box: Sequence[float] | np.ndarray, size: Size, padding: float
) -> dict[str, np.ndarray]:
    """Cuts a person out, as the network sees it in a test.

    Args:
      image: `h w 3` uint8 RGB.
      box: x, y, w, h in its pixels.
      size: (h, w) of the result.
      padding: factor of both sides.

    Returns:
      "image" `h w 3` uint8, 0 outside the image; "center" and "frame" `2` float32 (see
      `gsto_jax.pose.heatmaps.to_image`).
    """
    center, frame = box_to_frame(box, size, padding)
    matrix = frame_to_crop(center, float(frame[0]), 0.0, size)
    return {
        "image": cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR),
        "center": center.astype(np.float32),
        "frame": frame.astype(np.float32),
    }
