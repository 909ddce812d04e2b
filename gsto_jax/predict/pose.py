"""Predicts poses of persons in images (needs OpenCV and Pillow, from the `train` extra)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from gsto_jax.drawing.heat_maps import branch_figure, gate_figure
from gsto_jax.drawing.tiles import BACKGROUND
from gsto_jax.errors import UserError
from gsto_jax.image_files import crop_person
from gsto_jax.pose.inference import predict_joints
from gsto_jax.pose.oks import rescore
from gsto_jax.pose.panels import draw_poses, heatmap_figure
from gsto_jax.pose.task import PoseTask
from gsto_jax.predict.base import BasePredictor
from gsto_jax.predict.media import load_pixels
from gsto_jax.runs.trained import load_trained
from gsto_jax.types import Size

POSE_OUTPUTS = ("overlay", "heatmaps", "branches", "gates")
_BATCH_SIZE = 16


@dataclass(frozen=True)
class PosePrediction:
    """Poses of the persons in an image.

    Attributes:
      image: `h w 3` uint8 RGB.
      boxes: `n 4` float64, x, y, width, height of each person in pixels.
      poses: `n j 3` float32, x and y in pixels of the image, and score.
      scores: `n` float64, mean score of each person's joints above `pose.visibility_threshold`.
      crops: `n h w 3` uint8 RGB, inputs of the network; empty without features.
      features: "heatmaps" `n h w j`, and feature maps and gates `n h w` by name, all float32 (see
        `gsto_jax.evaluation.forward.feature_maps`); empty without features.
      task: trained task, with joint names and skeleton.
    """

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    poses: Float[np.ndarray, "n j 3"]
    scores: Float[np.ndarray, " n"]
    crops: UInt8[np.ndarray, "n crop_h crop_w 3"]
    features: Mapping[str, np.ndarray]
    task: PoseTask

    def overlay(self) -> np.ndarray:
        """Draws all skeletons on the image, and the boxes of persons without visible joints."""
        visible = self.task.config.pose.visibility_threshold
        return draw_poses(self.image, self.poses, self.task.skeleton, visible, self.boxes)

    def without_joints(self) -> list[int]:
        """Returns the indices of persons without a joint above `pose.visibility_threshold`."""
        below = (
            self.poses[..., 2].max(-1, initial=-np.inf) < self.task.config.pose.visibility_threshold
        )
        return np.flatnonzero(below).tolist()

    def render(self, output: str) -> np.ndarray:
        """Draws one of `POSE_OUTPUTS`, `h w 3` uint8 RGB; features have a row per person."""
        if output == "overlay":
            return self.overlay()
        draw: dict[str, Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]] = {
            "heatmaps": lambda crop, x: heatmap_figure(crop, x["heatmaps"], self.task.joints),
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


@dataclass(frozen=True)
class PosePredictor(BasePredictor):
    """A trained pose network.

    Attributes:
      trained: the network.

    Example:
      >>> predictor = PosePredictor.load("runs/coco_pose_w32")
      >>> prediction = predictor("people.jpg", boxes=[[48, 20, 90, 210]])  # x, y, width, height
      >>> prediction.poses.shape
      (1, 17, 3)
      >>> overlay = prediction.overlay()
    """

    task_name = "pose"

    @classmethod
    def load(cls, checkpoint: str | Path) -> "PosePredictor":
        """Loads a network; see `gsto_jax.runs.trained.load_trained`."""
        return cls(load_trained(checkpoint))

    @property
    def task(self) -> PoseTask:
        """The task of the network."""
        assert isinstance(self.trained.task, PoseTask)
        return self.trained.task

    def __call__(
        self,
        image: np.ndarray | str | Path,
        boxes: Sequence[Sequence[float]] | None = None,
        with_features: bool = False,
    ) -> PosePrediction:
        """Predicts the joints of persons.

        Args:
          image: `h w 3` RGB, `h w` gray or `h w 4` RGBA, uint8 or uint16; a Pillow image; or the
            path of a file.
          boxes: `n 4`, x, y, width, height of each person in pixels; None for one person that fills
            the image.
          with_features: whether to return crops, heatmaps, feature maps and gates as well.

        Raises:
          UserError: a file or array that is not an image, or an invalid box; see `check_boxes`.
        """
        rgb = load_pixels(image, self.decode_options)
        height, width = rgb.shape[:2]
        image_box = [(0, 0, width, height)]
        person_boxes = check_boxes(image_box if boxes is None else boxes, (height, width))
        data = self.config["data"]
        size, padding = tuple(data["crop"]), data["keypoints"]["padding"]
        crops = [crop_person(rgb, box, size, padding) for box in person_boxes]
        poses = [np.zeros((0, self.task.num_classes, 3), np.float32)]
        features: list[dict[str, np.ndarray]] = []
        for start in range(0, len(crops), _BATCH_SIZE):
            chunk = crops[start : start + _BATCH_SIZE]
            # Padded to a power of two, since each batch size compiles.
            batch_size = 1 << (len(chunk) - 1).bit_length()
            padded = chunk + chunk[-1:] * (batch_size - len(chunk))
            batch = {name: np.stack([crop[name] for crop in padded]) for name in chunk[0]}
            joints, outputs = predict_joints(
                self.task, self.trained.mesh, self.trained.variables, batch
            )
            poses.append(np.asarray(joints)[: len(chunk)])
            if with_features:
                features.append({k: np.asarray(v)[: len(chunk)] for k, v in outputs.items()})
        all_poses = np.concatenate(poses)
        threshold = self.task.config.pose.visibility_threshold
        images = [crop["image"] for crop in crops] if with_features else []
        return PosePrediction(
            image=rgb,
            boxes=person_boxes,
            poses=all_poses,
            scores=rescore(all_poses[..., 2], np.ones(len(all_poses)), threshold),
            crops=np.stack(images) if images else np.zeros((0, *size, 3), np.uint8),
            features={
                name: np.concatenate([x[name] for x in features]) for name in (features or [{}])[0]
            },
            task=self.task,
        )


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
