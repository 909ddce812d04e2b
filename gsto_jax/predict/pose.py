"""Predicts poses of persons in images (needs OpenCV and Pillow, from the `train` extra)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsto_jax.image_files import crop_person
from gsto_jax.pose.inference import predict_joints
from gsto_jax.pose.oks import rescore
from gsto_jax.pose.task import PoseTask
from gsto_jax.predict.base import BasePredictor
from gsto_jax.predict.media import load_pixels
from gsto_jax.predict.pose_prediction import PosePrediction, check_boxes
from gsto_jax.runs.trained import load_trained

_BATCH_SIZE = 16


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

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints."""
        return self.task.joints

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """Pairs of joints that are connected by a line."""
        return self.task.skeleton

    @property
    def visibility_threshold(self) -> float:
        """Lowest score of a joint that is drawn."""
        return self.task.config.pose.visibility_threshold

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
        crops = [crop_person(rgb, box, size, padding, self.task.udp) for box in person_boxes]
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
        images = [crop["image"] for crop in crops] if with_features else []
        return PosePrediction(
            image=rgb,
            boxes=person_boxes,
            poses=all_poses,
            scores=rescore(all_poses[..., 2], np.ones(len(all_poses)), self.visibility_threshold),
            crops=np.stack(images) if images else np.zeros((0, *size, 3), np.uint8),
            features={
                name: np.concatenate([x[name] for x in features]) for name in (features or [{}])[0]
            },
            joints=self.joints,
            skeleton=self.skeleton,
            visibility_threshold=self.visibility_threshold,
        )
