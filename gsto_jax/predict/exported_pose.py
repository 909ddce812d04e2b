"""Predicts poses of persons with an exported program, by ONNX Runtime without JAX."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsto_jax.predict.exported_base import BaseExportedPredictor
from gsto_jax.predict.media import load_pixels
from gsto_jax.predict.pose_prediction import PosePrediction, check_boxes

_BATCH_SIZE = 16  # persons at a time, which bounds memory


@dataclass(frozen=True)
class ExportedPosePredictor(BaseExportedPredictor):
    """An exported pose network; predicts as `gsto_jax.predict.pose.PosePredictor`.

    Attributes:
      program: the program.

    Raises:
      UserError: a program of another task.

    Example:
      >>> predictor = ExportedPosePredictor.load("export/model.onnx")
      >>> poses = predictor("people.jpg", boxes=[[48, 20, 90, 210]]).poses
    """

    task_name = "pose"

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints."""
        return tuple(self.program.description["joints"])

    @property
    def skeleton(self) -> tuple[tuple[int, ...], ...]:
        """Pairs of joints that are connected by a line."""
        return tuple(map(tuple, self.program.description["skeleton"]))

    @property
    def visibility_threshold(self) -> float:
        """Lowest score of a joint that is drawn."""
        return float(self.program.description["visibility_threshold"])

    def __call__(
        self, image: np.ndarray | str | Path, boxes: Sequence[Sequence[float]] | None = None
    ) -> PosePrediction:
        """Predicts the joints of persons; arguments and errors as of `PosePredictor`."""
        rgb = load_pixels(image, self.decode_options)
        size = height, width = rgb.shape[0], rgb.shape[1]
        self.program.check_size(size)
        person_boxes = check_boxes([(0, 0, width, height)] if boxes is None else boxes, size)
        poses = [np.zeros((0, len(self.joints), 3), np.float32)]
        scores = [np.zeros(0, np.float32)]
        for start in range(0, len(person_boxes), _BATCH_SIZE):
            chunk = person_boxes[start : start + _BATCH_SIZE].astype(np.float32)
            count = padded = len(chunk)
            if self.program.runtime == "jax":  # which compiles for each number of persons
                padded = 1 << (count - 1).bit_length()
            chunk = np.pad(chunk, ((0, padded - count), (0, 0)), "edge")
            outputs = self.program.call({"image": rgb, "boxes": chunk})
            poses.append(outputs["joints"][:count])
            scores.append(outputs["scores"][:count])
        return PosePrediction(
            image=rgb,
            boxes=person_boxes,
            poses=np.concatenate(poses),
            scores=np.concatenate(scores).astype(np.float64),
            crops=np.zeros((0, 1, 1, 3), np.uint8),
            features={},
            joints=self.joints,
            skeleton=self.skeleton,
            visibility_threshold=self.visibility_threshold,
        )
