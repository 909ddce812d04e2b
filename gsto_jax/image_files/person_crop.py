"""Person crops: the frame around a bounding box and the affine map from image to crop."""

from collections.abc import Sequence

import cv2
import numpy as np

Size = tuple[int, int]


def box_to_frame(
    box: Sequence[float] | np.ndarray, crop: Size, padding: float
) -> tuple[np.ndarray, np.ndarray]:
    """Extends a box to the aspect ratio of the crop, and pads it.

    Args:
      box: x, y, width, height in pixels.
      crop: (h, w) of the network's input.
      padding: scale factor of width and height.

    Returns:
      Center (x, y) and size (width, height) of the frame, float64.
    """
    # An empty frame would send joints to infinity.
    width, height = np.maximum(np.asarray(box[2:], np.float64), 1)
    aspect = crop[1] / crop[0]
    if width > aspect * height:
        height = width / aspect
    else:
        width = height * aspect
    center = np.array([box[0] + box[2] / 2, box[1] + box[3] / 2], np.float64)
    return center, padding * np.array([width, height])


def frame_to_crop(center: np.ndarray, width: float, rotation: float, crop: Size) -> np.ndarray:
    """Returns the affine matrix that maps image coordinates to crop coordinates.

    Args:
      center: x, y of the frame in the image; maps to the center of the crop.
      width: width of the frame in image pixels; maps to the width of the crop.
      rotation: counter-clockwise rotation in degrees.
      crop: (h, w).

    Returns:
      `2 3` float64, to multiply with column vectors (x, y, 1).
    """
    factor = crop[1] / width
    cos, sin = np.cos(np.deg2rad(rotation)) * factor, np.sin(np.deg2rad(rotation)) * factor
    linear = np.array([[cos, sin], [-sin, cos]])
    shift = np.array([crop[1] / 2, crop[0] / 2]) - linear @ center
    return np.concatenate([linear, shift[:, None]], axis=1)


def crop_person(
    image: np.ndarray, box: Sequence[float] | np.ndarray, size: Size, padding: float
) -> dict[str, np.ndarray]:
    """Crops the padded box of a person to (h, w), without rotation.

    Returns:
      "image" `h w 3` uint8, zero outside the image; "center" and "frame" `2` float32, as
      `gsto_jax.pose.heatmaps.to_image` expects them.
    """
    center, frame = box_to_frame(box, size, padding)
    matrix = frame_to_crop(center, float(frame[0]), 0.0, size)
    return {
        "image": cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR),
        "center": center.astype(np.float32),
        "frame": frame.astype(np.float32),
    }
