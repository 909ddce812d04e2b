"""Poses of the persons in anyone's images (needs OpenCV and Pillow, from the `train` extra).

predictor = PosePredictor.load("runs/coco_pose_w32")
prediction = predictor(image, boxes)   # `h w 3` uint8 RGB or a file; x, y, w, h of each person
prediction.poses, prediction.overlay()
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.drawing.heat_maps import branch_figure, gate_figure
from gsto_jax.drawing.tiles import BACKGROUND
from gsto_jax.errors import UserError
from gsto_jax.image_files import crop_person
from gsto_jax.pose.inference import predict_joints
from gsto_jax.pose.oks import rescore
from gsto_jax.pose.panels import draw_poses, heatmap_figure
from gsto_jax.pose.task import PoseTask
from gsto_jax.predict.base import BasePredictor
from gsto_jax.predict.media import load_rgb
from gsto_jax.runs.trained import load_trained
from gsto_jax.types import Size

POSE_OUTPUTS = ("overlay", "heatmaps", "branches", "gates")
_BATCH = 16


@dataclass(frozen=True)
class PosePrediction:
    """The poses of the persons in an image.

    Attributes:
      image: `h w 3` uint8 RGB.
      boxes: `n 4`, x, y, w, h of each person.
      poses: `n j 3`, x and y in pixels of the image, and score.
      scores: `n`, of the poses: the mean of their joints above `pose.visibility_threshold`.
      crops: inputs of the network, `n h w 3`; empty unless asked for.
      maps: "heatmaps" `n h/4 w/4 j`, and those of the branches and gates; empty unless asked for.
      task: of the network: names of the joints, skeleton.
    """

    image: np.ndarray
    boxes: np.ndarray
    poses: np.ndarray
    scores: np.ndarray
    crops: np.ndarray
    maps: Mapping[str, np.ndarray]
    task: PoseTask

    def overlay(self) -> np.ndarray:
        """Returns the image with all skeletons, and the boxes of persons without visible joints."""
        visible = self.task.config.pose.visibility_threshold
        return draw_poses(self.image, self.poses, self.task.skeleton, visible, self.boxes)

    def without_joints(self) -> list[int]:
        """Returns the persons whose joints all score below `pose.visibility_threshold`."""
        below = (
            self.poses[..., 2].max(-1, initial=-np.inf) < self.task.config.pose.visibility_threshold
        )
        return np.flatnonzero(below).tolist()

    def drawn(self, kind: str) -> np.ndarray:
        """An image `h w 3` of one of `POSE_OUTPUTS`; all but the overlay show a person a row."""
        if kind == "overlay":
            return self.overlay()
        draw: dict[str, Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]] = {
            "heatmaps": lambda crop, maps: heatmap_figure(crop, maps["heatmaps"], self.task.joints),
            "branches": branch_figure,
            "gates": gate_figure,
        }
        persons = [
            draw[kind](crop, {name: values[n] for name, values in self.maps.items()})
            for n, crop in enumerate(self.crops)
        ]
        return np.vstack(persons) if persons else np.full((1, 1, 3), BACKGROUND, np.uint8)

    def persons(self) -> list[dict[str, Any]]:
        """Box, keypoints (x, y, score of each joint) and score of each person, as plain values."""
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
    """

    task_name = "pose"

    @classmethod
    def load(cls, checkpoint: str | Path) -> "PosePredictor":
        """Reads a network; see `gsto_jax.runs.trained.load_trained` for arguments and errors."""
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
        explain: bool = False,
    ) -> PosePrediction:
        """Finds the joints of persons.

        Args:
          image: `h w 3` RGB, `h w` gray or `h w 4` RGBA, uint8 or uint16; or the path of a file.
          boxes: `n 4`, x, y, w, h of each person in pixels; None: the whole image is one.
          explain: also returns what the network saw, and its maps.

        Raises:
          UserError: a file that is no image, an array that is no image, or a box without area,
            outside the image, or in shares of it.
        """
        rgb = load_rgb(image, self.rule)
        height, width = rgb.shape[:2]
        whole = [(0, 0, width, height)]
        person_boxes = check_boxes(whole if boxes is None else boxes, (height, width))
        data = self.config["data"]
        size, padding = tuple(data["crop"]), data["keypoints"]["padding"]
        crops = [crop_person(rgb, box, size, padding) for box in person_boxes]
        none = np.zeros((0, self.task.num_classes, 3), np.float32)
        poses: list[np.ndarray] = [none]
        maps: list[dict[str, np.ndarray]] = []
        for start in range(0, len(crops), _BATCH):
            part = crops[start : start + _BATCH]
            # Few shapes of batches, since each compiles.
            count = 1 << (len(part) - 1).bit_length()
            filled = part + part[-1:] * (count - len(part))
            batch = {name: np.stack([crop[name] for crop in filled]) for name in part[0]}
            joints, outputs = predict_joints(
                self.task, self.trained.mesh, self.trained.variables, batch
            )
            poses.append(np.asarray(joints)[: len(part)])
            if explain:
                maps.append({k: np.asarray(v)[: len(part)] for k, v in outputs.items()})
        every = np.concatenate(poses)
        visible = self.task.config.pose.visibility_threshold
        return PosePrediction(
            image=rgb,
            boxes=person_boxes,
            poses=every,
            scores=rescore(every[..., 2], np.ones(len(every)), visible),
            crops=np.stack([crop["image"] for crop in crops]) if maps else none,
            maps={k: np.concatenate([m[k] for m in maps]) for k in maps[0]} if maps else {},
            task=self.task,
        )


def check_boxes(boxes: Sequence[Sequence[float]] | np.ndarray, size: Size) -> np.ndarray:
    """Returns boxes of persons, `n 4` or one of `4`: x, y, w, h in pixels, as `n 4` float64.

    Raises:
      UserError: another shape, or a box that is not finite, has no area, lies outside the image of
        the size (h, w), or is given in shares of it; names it.
    """
    try:
        checked = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        raise UserError("boxes is no array of numbers: give x, y, width, height a row") from None
    if not checked.size:
        return np.zeros((0, 4))
    if checked.shape[-1:] != (4,) or checked.ndim > 2:
        shape = " x ".join(map(str, checked.shape))
        remedy = "; leave the scores out, boxes[:, :4]" if checked.shape[-1:] == (5,) else ""
        raise UserError(f"boxes is {shape}: give n x 4 of x, y, width, height{remedy}")
    checked = checked.reshape(-1, 4)
    for n, box in enumerate(checked):
        name = f"box {n}, {box.tolist()},"
        if not (np.isfinite(box).all() and box[2] > 0 and box[3] > 0):
            raise UserError(f"{name} has no area: give x, y, width, height > 0")
        if (box >= 0).all() and (box <= 1).all() and max(size) > 1:
            raise UserError(
                f"{name} lies in 0..1: give pixels, x and width times {size[1]}, y and height "
                f"times {size[0]}"
            )
        x, y, width, height = box
        if not (x < size[1] and y < size[0] and x + width > 0 and y + height > 0):
            raise UserError(f"{name} lies outside the image of {size[1]}x{size[0]} pixels")
    return checked
