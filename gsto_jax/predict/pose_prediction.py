"""The poses of the persons in an image, their drawings, and checks of boxes. Imports no JAX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from gsto_jax.drawing.heat_maps import branch_figure, gate_figure
from gsto_jax.drawing.tiles import BACKGROUND
from gsto_jax.errors import UserError
from gsto_jax.pose.panels import draw_poses, heatmap_figure
from gsto_jax.types import Size


@dataclass(frozen=True)
class PosePrediction:
    """Poses of the persons in an image.

    Attributes:
      image: `h w 3` uint8 RGB.
      boxes: `n 4` float64, x, y, width, height of each person in pixels.
      poses: `n j 3` float32, x and y in pixels of the image, and score.
      scores: `n` float64, mean score of each person's joints above `visibility_threshold`.
      crops: `n h w 3` uint8 RGB, inputs of the network; empty without features.
      features: "heatmaps" `n h w j`, and feature maps and gates `n h w` by name, all float32 (see
        `gsto_jax.evaluation.forward.feature_maps`); empty without features.
      joints: names.
      skeleton: pairs of joints that are connected by a line.
      visibility_threshold: joints with a lower score are not drawn.
    """

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    poses: Float[np.ndarray, "n j 3"]
    scores: Float[np.ndarray, " n"]
    crops: UInt8[np.ndarray, "n crop_h crop_w 3"]
    features: Mapping[str, np.ndarray]
    joints: Sequence[str]
    skeleton: Sequence[Sequence[int]]
    visibility_threshold: float

    def overlay(self) -> np.ndarray:
        """Draws all skeletons on the image, and the boxes of persons without visible joints."""
        visible = self.visibility_threshold
        return draw_poses(self.image, self.poses, self.skeleton, visible, self.boxes)

    def without_joints(self) -> list[int]:
        """Returns the indices of persons without a joint above `visibility_threshold`."""
        below = self.poses[..., 2].max(-1, initial=-np.inf) < self.visibility_threshold
        return np.flatnonzero(below).tolist()

    def render(self, output: str) -> np.ndarray:
        """Draws one of `POSE_OUTPUTS`, `h w 3` uint8 RGB; features have a row per person."""
        if output == "overlay":
            return self.overlay()
        draw: dict[str, Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]] = {
            "heatmaps": lambda crop, x: heatmap_figure(crop, x["heatmaps"], self.joints),
            "branches": branch_figure,
            "gates": gate_figure,
        }
        persons = [
            draw[output](crop, {name: values[n] for name, values in self.features.items()})
            for n, crop in enumerate(self.crops)
        ]
        return np.vstack(persons) if persons else np.full((1, 1, 3), BACKGROUND, np.uint8)

    def persons(self) -> list[dict[str, Any]]:
        """Returns box, keypoints (x, y, score per joint) and score of each person, for JSON."""
        rows = zip(self.boxes.tolist(), self.poses, self.scores.tolist(), strict=True)
        return [
            {
                "bbox": box,
                "keypoints": pose.ravel().astype(float).round(3).tolist(),
                "score": round(score, 6),
            }
            for box, pose, score in rows
        ]


def check_boxes(boxes: Sequence[Sequence[float]] | np.ndarray, size: Size) -> np.ndarray:
    """Converts boxes of persons, `n 4` or a single `4`, in pixels to `n 4` float64.

    Raises:
      UserError: another shape; or a box that is not finite, has no area, lies outside the image of
        size (h, w), or has coordinates relative to it.
    """
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        raise UserError("boxes must be an array of numbers: x, y, width, height per row") from None
    if not array.size:
        return np.zeros((0, 4))
    if array.shape[-1:] != (4,) or array.ndim > 2:
        shape = " x ".join(map(str, array.shape))
        remedy = ". Drop the scores, boxes[:, :4]" if array.shape[-1:] == (5,) else ""
        raise UserError(f"boxes must be n x 4: x, y, width, height; got {shape}{remedy}")
    array = array.reshape(-1, 4)
    for n, box in enumerate(array):
        got = f"got box {n}, {box.tolist()}"
        x, y, width, height = box
        if not (np.isfinite(box).all() and width > 0 and height > 0):
            raise UserError(f"boxes must have width and height above 0; {got}")
        if (box >= 0).all() and (box <= 1).all() and max(size) > 1:
            raise UserError(
                f"boxes must be in pixels; {got}. Multiply x and width by {size[1]}, y and height "
                f"by {size[0]}"
            )
        if not (x < size[1] and y < size[0] and x + width > 0 and y + height > 0):
            raise UserError(f"boxes must overlap the image of {size[1]}x{size[0]} pixels; {got}")
    return array
