"""Keypoint tables of datasets: joint names, flip pairs, skeleton and OKS deviations."""

from dataclasses import dataclass
from itertools import accumulate


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

_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_HAND = ("hand_root", *(f"{finger}{n}" for finger in _FINGERS for n in range(1, 5)))
_FOOT = ("big_toe", "small_toe", "heel")
WHOLEBODY_PARTS = {
    "foot": 2 * len(_FOOT),
    "face": 68,
    "lefthand": len(_HAND),
    "righthand": len(_HAND),
}
"""Number of joints of the parts that COCO-WholeBody adds to the body, in order."""
_FEET, _FACE, _LEFT_HAND, _RIGHT_HAND, _ = accumulate(
    WHOLEBODY_PARTS.values(), initial=len(COCO_KEYPOINTS.names)
)
_MIRRORED_FACE = (
    *((n, 16 - n) for n in range(8)),
    *((n, 43 - n) for n in range(17, 22)),
    *((31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)),
)
"""Pairs of the face's 68 joints that a flip swaps."""


def _chain(first: int, last: int, closed: bool = False) -> tuple[tuple[int, int], ...]:
    """Returns lines along joints of the face."""
    lines = [(_FACE + n, _FACE + n + 1) for n in range(first, last)]
    return (*lines, *([(_FACE + last, _FACE + first)] if closed else []))


def _finger_lines(wrist: int, root: int) -> tuple[tuple[int, int], ...]:
    """Returns lines from the wrist to the root of a hand, and from there along each finger."""
    bases = range(root + 1, root + 21, 4)
    along = [(base + n, base + n + 1) for base in bases for n in range(3)]
    return ((wrist, root), *((root, base) for base in bases), *along)


_HAND_SIGMAS = (
    *(0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024),
    *(0.022, 0.026, 0.017, 0.021, 0.021, 0.032, 0.02, 0.019, 0.022, 0.031),
)
COCO_WHOLEBODY = KeypointTable(
    name="coco_wholebody",
    names=(
        *COCO_KEYPOINTS.names,
        *(f"{side}_{name}" for side in ("left", "right") for name in _FOOT),
        *(f"face_{n}" for n in range(WHOLEBODY_PARTS["face"])),
        *(f"{side}_{name}" for side in ("left", "right") for name in _HAND),
    ),
    flip_pairs=(
        *COCO_KEYPOINTS.flip_pairs,
        *((_FEET + n, _FEET + 3 + n) for n in range(3)),
        *((_FACE + left, _FACE + right) for left, right in _MIRRORED_FACE),
        *((_LEFT_HAND + n, _RIGHT_HAND + n) for n in range(21)),
    ),
    skeleton=(
        *COCO_KEYPOINTS.skeleton,
        *((15, _FEET + n) for n in range(3)),
        *((16, _FEET + 3 + n) for n in range(3)),
        *_chain(0, 16),
        *_chain(17, 21),
        *_chain(22, 26),
        *_chain(27, 30),
        *_chain(31, 35),
        *_chain(36, 41, closed=True),
        *_chain(42, 47, closed=True),
        *_chain(48, 59, closed=True),
        *_chain(60, 67, closed=True),
        *_finger_lines(9, _LEFT_HAND),
        *_finger_lines(10, _RIGHT_HAND),
    ),
    sigmas=(
        *COCO_KEYPOINTS.sigmas,
        *(0.068, 0.066, 0.066, 0.092, 0.094, 0.094),
        *(0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032),
        *(0.037, 0.038, 0.043, 0.041, 0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011),
        *(0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012, 0.009, 0.008, 0.016, 0.010),
        *(0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034),
        *(0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007),
        *(0.007, 0.008, 0.011, 0.008, 0.008, 0.008, 0.01, 0.008),
        *_HAND_SIGMAS,
        *_HAND_SIGMAS,
    ),
    upper_body=COCO_KEYPOINTS.upper_body,
    lower_body=tuple(range(11, _FACE)),
)
"""Joints of body, feet, face (68 landmarks), left and right hand. Face and hands belong to
neither half: their many joints would dominate its center."""
