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


def frame_to_crop(
    center: np.ndarray, frame: np.ndarray, rotation: float, crop: Size, udp: bool = False
) -> np.ndarray:
    """Returns the affine matrix that maps image coordinates to crop coordinates.

    Args:
      center: x, y of the frame in the image.
      frame: width and height of the frame in image pixels.
      rotation: counter-clockwise rotation in degrees.
      crop: (h, w).
      udp: maps the frame's corners to the centers of the outermost pixels, (0, 0) to
        (w - 1, h - 1) (unbiased data processing, Huang et al. 2020). Otherwise maps its width to w,
        its height by the same factor, and its center to (w / 2, h / 2), as published.

    Returns:
      `2 3` float64, to multiply with column vectors (x, y, 1).
    """
    angle = np.deg2rad(rotation)
    if udp:
        last = np.array([crop[1] - 1, crop[0] - 1])
        cos, sin = np.cos(angle), np.sin(angle)
        linear = np.array([[cos, sin], [-sin, cos]]) * (last / frame)[:, None]
        middle = last / 2
    else:
        factor = crop[1] / frame[0]
        cos, sin = np.cos(angle) * factor, np.sin(angle) * factor
        linear = np.array([[cos, sin], [-sin, cos]])
        middle = np.array([crop[1] / 2, crop[0] / 2])
    return np.concatenate([linear, (middle - linear @ center)[:, None]], axis=1)


def crop_person(
    image: np.ndarray,
    box: Sequence[float] | np.ndarray,
    size: Size,
    padding: float,
    udp: bool = False,
) -> dict[str, np.ndarray]:
    """Crops the padded box of a person to (h, w), without rotation; `udp` as in `frame_to_crop`.

    Returns:
      "image" `h w 3` uint8, zero outside the image; "center" and "frame" `2` float32, as
      `gsto_jax.pose.heatmaps.to_image` expects them.
    """
    center, frame = box_to_frame(box, size, padding)
    matrix = frame_to_crop(center, frame, 0.0, size, udp)
    return {
        "image": cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR),
        "center": center.astype(np.float32),
        "frame": frame.astype(np.float32),
    }
