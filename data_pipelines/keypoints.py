"""Keypoint tables of datasets: joint names, flip pairs, skeleton and OKS deviations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KeypointTable:
    """The joints of a dataset.

    Attributes:
      name: name of the dataset.
      names: names of the joints, in order.
      flip_pairs: pairs of joints (left, right) to swap in a flipped image.
      skeleton: pairs of joints to connect by a line in drawings.
      sigmas: OKS standard deviation of each joint, relative to the person's scale.
      upper_body: joints of the upper body, for crops of half bodies.
      lower_body: joints of the lower body.
    """

    name: str
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    skeleton: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper_body: tuple[int, ...]
    lower_body: tuple[int, ...]


COCO_KEYPOINTS = KeypointTable(
    name="coco_keypoints",
    names=(
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
        *("left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    skeleton=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7)),
        *((6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
    upper_body=tuple(range(11)),
    lower_body=tuple(range(11, 17)),
)

MPII = KeypointTable(
    name="mpii",
    names=(
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
        *("pelvis", "thorax", "upper_neck", "head_top"),
        *("right_wrist", "right_elbow", "right_shoulder"),
        *("left_shoulder", "left_elbow", "left_wrist"),
    ),
    flip_pairs=((5, 0), (4, 1), (3, 2), (15, 10), (14, 11), (13, 12)),
    skeleton=(
        *((0, 1), (1, 2), (2, 6), (3, 6), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)),
        *((7, 12), (12, 11), (11, 10), (7, 13), (13, 14), (14, 15)),
    ),
    # MPII has none: those of COCO, and of the nearest joint of COCO for pelvis to head.
    sigmas=(
        *(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.035),
        *(0.062, 0.072, 0.079, 0.079, 0.072, 0.062),
    ),
    upper_body=tuple(range(7, 16)),
    lower_body=tuple(range(7)),
)
