"""Skeletons over pictures, and heatmaps of joints (needs OpenCV)."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from gsto_jax.canvas import Color, caption, grid

_HEIGHT = 320  # of a panel's tile, in pixels
_OPACITY = 0.6


def draw_poses(
    image: np.ndarray,
    poses: np.ndarray,
    skeleton: Sequence[Sequence[int]],
    visible: float = 0.2,
) -> np.ndarray:
    """Draws skeletons over a picture.

    Args:
      image: `h w 3` uint8 RGB.
      poses: `n j 3`: x and y in its pixels, and score.
      skeleton: pairs of joints to draw a line between.
      visible: joints below this score, and lines to them, are left out.

    Returns:
      `h w 3` uint8 RGB.
    """
    canvas = np.ascontiguousarray(image.copy())
    height, width = canvas.shape[:2]
    thick = max(1, round(max(height, width) / 200))
    for pose in poses:
        places = [_place(x, y) for x, y, _ in pose]
        seen = pose[:, 2] >= visible
        for n, (a, b) in enumerate(skeleton):
            if seen[a] and seen[b]:
                color = _color(n, len(skeleton))
                cv2.line(canvas, places[a], places[b], color, thick, cv2.LINE_AA)
        for j in np.flatnonzero(seen).tolist():
            cv2.circle(canvas, places[j], thick + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(canvas, places[j], thick, _color(j, len(pose)), -1, cv2.LINE_AA)
    return canvas


def pose_panel(
    image: np.ndarray,
    truth: np.ndarray | None,
    pose: np.ndarray,
    heatmaps: np.ndarray,
    skeleton: Sequence[Sequence[int]],
    visible: float = 0.2,
) -> np.ndarray:
    """A person as it was seen, the true and the found skeleton, and all heatmaps over it.

    Args:
      image: `h w 3` uint8 RGB, what the network saw.
      truth: `j 3` in its pixels, score above 0 for labelled joints; None for none.
      pose: `j 3`, what was found.
      heatmaps: `h' w' j`.
      skeleton: pairs of joints.
      visible: found joints below this score are left out.

    Returns:
      uint8 RGB, one row of tiles.
    """
    shown, factor = _enlarged(image)
    scaled = np.array([factor, factor, 1])
    tiles = [("image", shown)]
    if truth is not None:
        labelled = (truth * scaled)[None]
        tiles.append(("truth", draw_poses(shown, labelled, skeleton, 1e-6)))
    found = draw_poses(shown, (pose * scaled)[None], skeleton, visible)
    tiles.append(("found", found))
    tiles.append(("heatmaps", _over(shown, heatmaps.max(-1))))
    return grid([[_captioned(*tile) for tile in tiles]])


def heatmap_figure(image: np.ndarray, heatmaps: np.ndarray, joints: Sequence[str]) -> np.ndarray:
    """The heatmap of each joint over the person: a tile a joint, with its largest value.

    Args:
      image: `h w 3` uint8 RGB, what the network saw.
      heatmaps: `h' w' j`.
      joints: their names.

    Returns:
      uint8 RGB, rows of tiles.
    """
    shown, _ = _enlarged(image, _HEIGHT // 2)
    tiles = [
        _captioned(f"{name} {heatmaps[..., j].max():.2f}", _over(shown, heatmaps[..., j]))
        for j, name in enumerate(joints)
    ]
    columns = 6
    return grid([tiles[n : n + columns] for n in range(0, len(tiles), columns)])


def _enlarged(image: np.ndarray, height: int = _HEIGHT) -> tuple[np.ndarray, float]:
    factor = height / image.shape[0]
    size = (max(1, round(image.shape[1] * factor)), height)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=way), factor


def _over(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    values = (255 * np.clip(heatmap, 0, 1)).astype(np.uint8)
    large = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    heat = cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    return cv2.addWeighted(heat, _OPACITY, grey, 1 - _OPACITY, 0)


def _captioned(text: str, tile: np.ndarray) -> np.ndarray:
    return np.vstack([caption(text, tile.shape[1]), tile])


def _place(x: float, y: float) -> tuple[int, int]:
    # Far outside, OpenCV's integers would overflow.
    return round(float(np.clip(x, -1e4, 1e4))), round(float(np.clip(y, -1e4, 1e4)))


def _color(n: int, count: int) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(n / max(count, 1), 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
