"""Images of the persons of an evaluation (needs OpenCV)."""

import colorsys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.drawing.heat_maps import blend_over_gray, feature_figures, heat_map
from gsto_jax.drawing.tiles import Color, tile_grid, with_caption
from gsto_jax.evaluation.png_writer import PngWriter
from gsto_jax.pose.task import PoseTask

PNG_KINDS = ("sample", "heatmaps", "branches", "gates")
_HEIGHT = 320  # of a panel's tile, in pixels
_NO_JOINT = (220, 30, 30)  # color of the box of a person without visible joints


def draw_poses(
    image: np.ndarray,
    poses: np.ndarray,
    skeleton: Sequence[Sequence[int]],
    visible: float = 0.2,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Draws skeletons over an image.

    Args:
      image: `h w 3` uint8 RGB.
      poses: `n j 3`: x and y in its pixels, and score.
      skeleton: pairs of joints to draw a line between.
      visible: joints below this score, and lines to them, are left out.
      boxes: `n 4`, x, y, w, h: that of a person without any joint left is drawn, and says so.

    Returns:
      `h w 3` uint8 RGB.
    """
    canvas = np.ascontiguousarray(image.copy())
    height, width = canvas.shape[:2]
    thick = max(1, round(max(height, width) / 200))
    for n, pose in enumerate(poses):
        if boxes is not None and not (pose[:, 2] >= visible).any():
            _draw_empty(canvas, boxes[n], visible, thick)
        places = [_place(x, y) for x, y, _ in pose]
        seen = pose[:, 2] >= visible
        for line, (a, b) in enumerate(skeleton):
            if seen[a] and seen[b]:
                color = _color(line, len(skeleton))
                cv2.line(canvas, places[a], places[b], color, thick, cv2.LINE_AA)
        for j in np.flatnonzero(seen).tolist():
            cv2.circle(canvas, places[j], thick + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(canvas, places[j], thick, _color(j, len(pose)), -1, cv2.LINE_AA)
    return canvas


def _draw_empty(canvas: np.ndarray, box: np.ndarray, visible: float, thick: int) -> None:
    """Draws the box of a person whose joints all score below a threshold, with that text."""
    x, y, width, height = map(float, box)
    corners = _place(x, y), _place(x + width, y + height)
    cv2.rectangle(canvas, *corners, (255, 255, 255), thick + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, *corners, _NO_JOINT, thick, cv2.LINE_AA)
    scale = max(0.35, canvas.shape[0] / 1000)
    text, font = f"no joint above {visible:g}", cv2.FONT_HERSHEY_SIMPLEX
    # Inside the image, wherever the box is.
    left = max(2, corners[0][0] + thick + 2)
    base = min(max(corners[0][1] + round(30 * scale), round(30 * scale)), canvas.shape[0] - 4)
    cv2.putText(canvas, text, (left, base), font, scale, (255, 255, 255), 3 * thick, cv2.LINE_AA)
    cv2.putText(canvas, text, (left, base), font, scale, _NO_JOINT, thick, cv2.LINE_AA)


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
      truth: `j 3` in its pixels, score above 0 for labeled joints; None for none.
      pose: `j 3`, what was found.
      heatmaps: `h' w' j`.
      skeleton: pairs of joints.
      visible: found joints below this score are left out.

    Returns:
      uint8 RGB, one row of tiles.
    """
    shown, factor = _upsampled(image)
    scaled = np.array([factor, factor, 1])
    tiles = [("image", shown)]
    if truth is not None:
        labeled = (truth * scaled)[None]
        tiles.append(("truth", draw_poses(shown, labeled, skeleton, 1e-6)))
    border = np.array([[0, 0, shown.shape[1] - 1, shown.shape[0] - 1]])  # for want of joints
    found = draw_poses(shown, (pose * scaled)[None], skeleton, visible, border)
    tiles.append(("found", found))
    tiles.append(("heatmaps", _over(shown, heatmaps.max(-1))))
    return tile_grid([[with_caption(*tile) for tile in tiles]])


def heatmap_figure(image: np.ndarray, heatmaps: np.ndarray, joints: Sequence[str]) -> np.ndarray:
    """The heatmap of each joint over the person: a tile a joint, with its largest value.

    Args:
      image: `h w 3` uint8 RGB, what the network saw.
      heatmaps: `h' w' j`.
      joints: their names.

    Returns:
      uint8 RGB, rows of tiles.
    """
    shown, _ = _upsampled(image, _HEIGHT // 2)
    tiles = [
        with_caption(f"{name} {heatmaps[..., j].max():.2f}", _over(shown, heatmaps[..., j]))
        for j, name in enumerate(joints)
    ]
    columns = 6
    return tile_grid([tiles[n : n + columns] for n in range(0, len(tiles), columns)])


def _upsampled(image: np.ndarray, height: int = _HEIGHT) -> tuple[np.ndarray, float]:
    factor = height / image.shape[0]
    size = (max(1, round(image.shape[1] * factor)), height)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=way), factor


def _over(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    return blend_over_gray(image, heat_map(heatmap, 0, 1, image.shape[:2], cv2.INTER_LINEAR))


def _place(x: float, y: float) -> tuple[int, int]:
    # Far outside, OpenCV's integers would overflow.
    return round(float(np.clip(x, -1e4, 1e4))), round(float(np.clip(y, -1e4, 1e4)))


def _color(n: int, count: int) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(n / max(count, 1), 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


class PosePngWriter(PngWriter):
    """Writes what an evaluation saw of persons: `NAME.png` is the panel of one.

    The first ones also get `NAME_heatmaps.png`, `NAME_branches.png` and, with a gated network,
    `NAME_gates.png`.

    Args:
      folder: where to.
      task: what was trained.
      name: file name, less ".png", of the person of an index; may hold slashes.
    """

    def __init__(self, folder: Path, task: PoseTask, name: Callable[[int], str]) -> None:
        chosen = task.config.eval
        super().__init__(folder, chosen.sample_images, chosen.feature_images, name)
        self.task = task

    def draw(
        self,
        batch: Mapping[str, np.ndarray],
        predictions: np.ndarray,
        maps: Callable[[], Mapping[str, np.ndarray]],
        n: int,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """See `PngWriter.draw`; predictions are joints `b j 3` in pixels of the images."""
        image = batch["image"][n]
        truth = np.concatenate([batch["joints"][n], batch["visible"][n][:, None]], -1)
        labeled = truth if (truth[:, 2] > 0).any() else None
        pose = to_crop(predictions[n], batch["center"][n], batch["frame"][n], image.shape)
        if self.is_drawn:
            look = (self.task.skeleton, self.task.config.pose.visibility_threshold)
            yield "sample", pose_panel(image, labeled, pose, maps()["heatmaps"][n], *look)
        if self.is_explained:
            shown = {name: values[n] for name, values in maps().items()}
            yield "heatmaps", heatmap_figure(image, shown.pop("heatmaps"), self.task.joints)
            yield from feature_figures(image, shown)


def to_crop(
    joints: np.ndarray, center: np.ndarray, frame: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Joints `j 3` in pixels of what the network saw, `h w 3` of this shape, out of the image."""
    middle = np.array([shape[1] / 2, shape[0] / 2])
    places = (joints[:, :2] - center) * (shape[1] / frame[0]) + middle
    return np.concatenate([places, joints[:, 2:]], -1)
