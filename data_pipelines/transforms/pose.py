"""Crops a person, moving image and joints by one affine map."""

from dataclasses import dataclass
from typing import Any

import cv2
import grain
import numpy as np

from gsto_jax.image_files import box_to_frame, frame_to_crop

_MIN_HALF_BODY_JOINTS = 8  # half bodies are cropped of persons with more labeled joints
_HALF_BODY_PADDING = 1.5
_ROTATED_FRACTION = 0.6  # of persons, with normal distributions


@dataclass(frozen=True, kw_only=True)
class PersonCrop(grain.transforms.RandomMap):
    """Crops a person with a random rotation, scale and flip.

    The crop is resampled bilinearly, 0 outside the image. Joints move with it; those outside the
    crop keep their positions. With the defaults nothing is random.

    Attributes:
      crop: (h, w) of the result in pixels.
      padding: size of the crop relative to the person's box.
      rotation: in degrees; the maximum in both directions, or the standard deviation.
      scale: the crop's size is multiplied by a factor in 1 - scale .. 1 + scale.
      distribution: of rotation and scale, see `data_pipelines.keypoint_options.DISTRIBUTIONS`.
      flip: flips left to right with probability 0.5.
      flip_pairs: pairs of joints (left, right) to swap in a flipped image.
      half_body: probability that a person with more than 8 labeled joints is cropped to the upper
        or the lower body, about its labeled joints with 1.5 as padding.
      upper_body: joints of the upper body.
      lower_body: joints of the lower body.
      udp: unbiased data processing, see `gsto_jax.image_files.frame_to_crop`.
    """

    crop: tuple[int, int]
    padding: float = 1.25
    rotation: float = 0.0
    scale: float = 0.0
    distribution: str = "uniform"
    flip: bool = False
    flip_pairs: tuple[tuple[int, int], ...] = ()
    half_body: float = 0.0
    upper_body: tuple[int, ...] = ()
    lower_body: tuple[int, ...] = ()
    udp: bool = False

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Transforms an example of a `PersonSource`.

        Returns:
          image `crop 3` uint8; joints float32 `j 2`, in pixels of the crop; visible float32 `j`;
          center (x, y) and frame (w, h) float32 (2,), the crop in pixels of the image if nothing is
          random; original_joints float32 `j 2`, in pixels of the image; box, area, score, image_id,
          person_id and index unchanged; augment_seed uint32.
        """
        center, frame = box_to_frame(element["box"], self.crop, self.padding)
        joints, visible = element["joints"].astype(np.float64), element["visible"]
        middle, size = self._half_frame(joints, visible > 0, rng) or (center, frame)
        factor, rotation = self._draw_scale_and_rotation(rng)
        matrix = frame_to_crop(middle, size * factor, rotation, self.crop, self.udp)
        if self.flip and rng.integers(2):
            # As published about w / 2, which keeps the center in place; with UDP about (w - 1) / 2,
            # as the image is flipped.
            end = self.crop[1] - 1 if self.udp else self.crop[1]
            matrix = matrix * [[-1], [1]] + [[0, 0, end], [0, 0, 0]]
            order = np.arange(len(joints))
            for left, right in self.flip_pairs:
                order[left], order[right] = right, left
            joints, visible = joints[order], visible[order]
        image = cv2.warpAffine(
            element["image"], matrix, (self.crop[1], self.crop[0]), flags=cv2.INTER_LINEAR
        )
        return {
            "image": image,
            "joints": (joints @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32),
            "original_joints": element["joints"].astype(np.float32),
            "visible": visible.astype(np.float32),
            "center": center.astype(np.float32),
            "frame": frame.astype(np.float32),
            "box": element["box"],
            "area": np.float32(element["area"]),
            "score": np.float32(element["score"]),
            "image_id": np.int64(element["image_id"]),
            "person_id": np.int64(element["person_id"]),
            "index": np.int32(element["index"]),
            "augment_seed": np.uint32(rng.integers(2**32)),
        }

    def _draw_scale_and_rotation(self, rng: np.random.Generator) -> tuple[float, float]:
        """Returns a factor of the crop's size and a rotation in degrees."""
        if self.distribution == "uniform":
            return 1 + self.scale * rng.uniform(-1, 1), self.rotation * rng.uniform(-1, 1)
        factor = 1 + self.scale * np.clip(rng.normal(), -1, 1)
        is_rotated = rng.random() < _ROTATED_FRACTION
        rotation = self.rotation * np.clip(rng.normal(), -2, 2)
        return factor, rotation if is_rotated else 0.0

    def _half_frame(
        self, joints: np.ndarray, labeled: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns center and size of a frame around half of a body; None for the whole person."""
        if not self.half_body or labeled.sum() <= _MIN_HALF_BODY_JOINTS:
            return None
        if rng.random() >= self.half_body:
            return None
        upper, lower = (
            [n for n in half if labeled[n]] for half in (self.upper_body, self.lower_body)
        )
        prefers_upper = rng.normal() < 0.5  # 69 %, as published
        half = upper if (prefers_upper and len(upper) > 2) or len(lower) <= 2 else lower
        if len(half) < 2:
            return None
        low, high = joints[half].min(0), joints[half].max(0)
        _, frame = box_to_frame((*low, *(high - low)), self.crop, _HALF_BODY_PADDING)
        return joints[half].mean(0), frame
