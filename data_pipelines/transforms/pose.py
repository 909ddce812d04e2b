"""From a person's box to the crop a pose network sees: one affine map for image and joints."""

from dataclasses import dataclass
from typing import Any

import cv2
import grain
import numpy as np

from gsto_jax.image_files import box_to_frame, frame_to_crop


@dataclass(frozen=True, kw_only=True)
class PersonCrop(grain.transforms.RandomMap):
    """Cuts a person out, with random rotation, scale and mirror image in training.

    Attributes:
        crop: (h, w) of the result.
        padding: how much larger than the box the frame is.
        rotation: at most so many degrees, uniformly in both directions.
        scale: the frame's size changes at most by this share, uniformly.
        flip: whether half of the images are mirrored.
        flip_pairs: joints that change places in a mirrored image.
    """

    crop: tuple[int, int]
    padding: float = 1.25
    rotation: float = 0.0
    scale: float = 0.0
    flip: bool = False
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Transforms one element of a `PersonSource`.

        Returns:
            image `crop 3` uint8, 0 outside the image; joints float32 `j 2` in pixels of the
            crop; visible float32 `j`; center, frame float32 (2,), which lead back to the image
            where nothing is random; original_joints float32 `j 2` in pixels of the image; box,
            area, score, image_id, person_id, index as they were.
        """
        center, frame = box_to_frame(element["box"], self.crop, self.padding)
        factor = 1 + self.scale * rng.uniform(-1, 1)
        matrix = frame_to_crop(
            center, frame[0] * factor, self.rotation * rng.uniform(-1, 1), self.crop
        )
        joints, visible = element["joints"].astype(np.float64), element["visible"]
        if self.flip and rng.integers(2):
            # About w / 2 and not (w - 1) / 2: the frame's center keeps its place, as published.
            matrix = matrix * [[-1], [1]] + [[0, 0, self.crop[1]], [0, 0, 0]]
            order = np.arange(len(joints))
            for left, right in self.flip_pairs:
                order[left], order[right] = right, left
            joints, visible = joints[order], visible[order]
        moved = joints @ matrix[:, :2].T + matrix[:, 2]
        image = cv2.warpAffine(
            element["image"], matrix, (self.crop[1], self.crop[0]), flags=cv2.INTER_LINEAR
        )
        return {
            "image": image,
            "joints": moved.astype(np.float32),
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
        }
