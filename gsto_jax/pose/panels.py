"""Panels of pose results (needs OpenCV, from the `train` extra)."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from gsto_jax.drawing.heat_maps import blend_over_gray, heat_map
from gsto_jax.drawing.tiles import Color, tile_grid, with_caption

_HEIGHT = 320  # of a panel's tile, in pixels
_COLUMNS = 6  # of a heatmap figure
_NO_JOINT: Color = (220, 30, 30)  # box of a person without visible joints
_WHITE: Color = (255, 255, 255)


def draw_poses(
    image: np.ndarray,
    poses: np.ndarray,
    skeleton: Sequence[Sequence[int]],
    visible: float = 0.2,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Draws skeletons on an image.

    Args:
      image: `h w 3` uint8 RGB.
      poses: `n j 3`: x and y in pixels, and score.
      skeleton: pairs of joints that are connected by a line.
      visible: joints with a lower score, and their lines, are not drawn.
      boxes: `n 4`, x, y, width, height; drawn for persons without visible joints.

    Returns:
      `h w 3` uint8 RGB.
    """
    canvas = np.ascontiguousarray(image.copy())
    thickness = max(1, round(max(canvas.shape[:2]) / 200))
    for n, pose in enumerate(poses):
        is_visible = pose[:, 2] >= visible
        if boxes is not None and not is_visible.any():
            _draw_box_without_joints(canvas, boxes[n], visible, thickness)
        points = [_point(x, y) for x, y, _ in pose]
        for line, (a, b) in enumerate(skeleton):
            if is_visible[a] and is_visible[b]:
                color = _color(line, len(skeleton))
                cv2.line(canvas, points[a], points[b], color, thickness, cv2.LINE_AA)
        for j in np.flatnonzero(is_visible).tolist():
            cv2.circle(canvas, points[j], thickness + 1, _WHITE, -1, cv2.LINE_AA)
            cv2.circle(canvas, points[j], thickness, _color(j, len(pose)), -1, cv2.LINE_AA)
    return canvas


def _draw_box_without_joints(
    canvas: np.ndarray, box: np.ndarray, visible: float, thickness: int
) -> None:
    """Draws the box of a person without visible joints, and a note."""
    x, y, width, height = map(float, box)
    corners = _point(x, y), _point(x + width, y + height)
    cv2.rectangle(canvas, *corners, _WHITE, thickness + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, *corners, _NO_JOINT, thickness, cv2.LINE_AA)
    scale = max(0.35, canvas.shape[0] / 1000)
    text, font = f"no joint above {visible:g}", cv2.FONT_HERSHEY_SIMPLEX
    # The text stays inside the image, wherever the box is.
    left = max(2, corners[0][0] + thickness + 2)
    line = round(30 * scale)
    origin = (left, min(max(corners[0][1] + line, line), canvas.shape[0] - 4))
    cv2.putText(canvas, text, origin, font, scale, _WHITE, 3 * thickness, cv2.LINE_AA)
    cv2.putText(canvas, text, origin, font, scale, _NO_JOINT, thickness, cv2.LINE_AA)


def pose_panel(
    image: np.ndarray,
    truth: np.ndarray | None,
    pose: np.ndarray,
    heatmaps: np.ndarray,
    skeleton: Sequence[Sequence[int]],
    visible: float = 0.2,
) -> np.ndarray:
    """Draws a person crop, the true and the predicted skeleton, and the maximum of the heatmaps.

    Args:
      image: `h w 3` uint8 RGB, input of the network.
      truth: `j 3` in its pixels, score above 0 for labeled joints; None without labels.
      pose: `j 3`, predicted.
      heatmaps: `h' w' j`.
      skeleton: pairs of joints.
      visible: predicted joints with a lower score are not drawn.

    Returns:
      One row of tiles, uint8 RGB.
    """
    resized, factor = _resized(image, _HEIGHT)
    scale = np.array([factor, factor, 1])
    tiles = [("image", resized)]
    if truth is not None:
        tiles.append(("truth", draw_poses(resized, (truth * scale)[None], skeleton, 1e-6)))
    border = np.array([[0, 0, resized.shape[1] - 1, resized.shape[0] - 1]])
    prediction = draw_poses(resized, (pose * scale)[None], skeleton, visible, border)
    tiles.append(("prediction", prediction))
    tiles.append(("heatmaps", _blend_heatmap(resized, heatmaps.max(-1))))
    return tile_grid([[with_caption(name, tile) for name, tile in tiles]])


def heatmap_figure(image: np.ndarray, heatmaps: np.ndarray, joints: Sequence[str]) -> np.ndarray:
    """Draws the heatmap `h' w' j` of each joint over the person crop `h w 3`, with its maximum."""
    resized, _ = _resized(image, _HEIGHT // 2)
    tiles = [
        with_caption(
            f"{name} {heatmaps[..., j].max():.2f}", _blend_heatmap(resized, heatmaps[..., j])
        )
        for j, name in enumerate(joints)
    ]
    return tile_grid([tiles[n : n + _COLUMNS] for n in range(0, len(tiles), _COLUMNS)])


def _resized(image: np.ndarray, height: int) -> tuple[np.ndarray, float]:
    """Returns an image resized to a height, and the factor."""
    factor = height / image.shape[0]
    size = (max(1, round(image.shape[1] * factor)), height)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=interpolation), factor


def _blend_heatmap(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    return blend_over_gray(image, heat_map(heatmap, 0, 1, image.shape[:2], cv2.INTER_LINEAR))


def _point(x: float, y: float) -> tuple[int, int]:
    # OpenCV's integers would overflow far outside the image.
    return round(float(np.clip(x, -1e4, 1e4))), round(float(np.clip(y, -1e4, 1e4)))


def _color(n: int, count: int) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(n / max(count, 1), 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
