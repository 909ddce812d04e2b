"""Config options of persons with keypoints."""

from dataclasses import dataclass
from typing import Any

from data_pipelines.errors import DataError
from gsto_jax.config.fields import DATA, RUNTIME, Section, option

IdPairs = tuple[tuple[int, int], ...]
Ids = tuple[int, ...]
DISTRIBUTIONS = {
    "uniform": "uniform up to the maxima, as in the configs here unless :published",
    "normal": "as in HRNet's published code: normal, with rotation and scale as standard"
    " deviations; scales are clipped at one, rotations at two; four of ten persons are not rotated",
}


@dataclass(frozen=True, kw_only=True)
class Keypoints(Section, prefix="data.keypoints", role=DATA, error=DataError):
    """The joints of a pose dataset, and how persons are cropped."""

    names: tuple[str, ...] = option((), "Names of the joints, in order; (): no pose dataset")
    flip_pairs: IdPairs = option(
        (), "Pairs of joints (left, right) to swap in a flipped image", ge=0
    )
    skeleton: IdPairs = option((), "Pairs of joints to connect by a line in drawings", ge=0)
    sigmas: tuple[float, ...] = option(
        (), "OKS standard deviation of each joint, relative to the person's scale", gt=0
    )
    padding: float = option(
        1.25,
        "Size of the crop relative to the person's box, in the crop's aspect ratio",
        ge=0.1,
        le=10,
    )
    clip_boxes: bool = option(
        True, "Clips annotated boxes to their image, as published for COCO but not for MPII"
    )
    rotation: float = option(
        45.0,
        "Training: maximum rotation in degrees, in both directions; see distribution",
        ge=0,
        le=180,
    )
    scale: float = option(
        0.35, "Training: the crop's size is multiplied by 1 - scale to 1 + scale", ge=0, le=0.99
    )
    distribution: str = option(
        "uniform",
        "Training: distribution of rotation and scale",
        choices=DISTRIBUTIONS,
    )
    half_body: float = option(
        0.0,
        "Training: probability that a person with more than 8 labeled joints is cropped to the"
        " upper or the lower body; 0.3 in HRNet's published code, off in the configs here unless"
        " :published",
        ge=0,
        le=1,
    )
    upper_body: Ids = option((), "Joints of the upper body, for half_body", ge=0)
    lower_body: Ids = option((), "Joints of the lower body, for half_body", ge=0)
    udp: bool = option(
        False,
        "Unbiased data processing (UDP), in training and evaluation: crops and heatmaps span the"
        " distance of their outermost pixels, targets are centered at the joints instead of at"
        " pixels, and the flip test shifts nothing; decode with pose.refinement=dark. Off in the"
        " published recipe",
    )
    detections: str = option(
        "",
        "JSON file of detected boxes to evaluate on; '': ground-truth boxes",
        role=RUNTIME,
        is_path=True,
    )
    category: str = option(
        "",
        "Name or id of the category in COCO files; '': the only one with keypoints, or 'person'",
        expected="the name or id of a category, or ''",
    )

    def __post_init__(self) -> None:
        """Accepts an integer category, and validates."""
        category: Any = self.category
        if type(category) is int and category >= 0:
            object.__setattr__(self, "category", str(category))
        super().__post_init__()

    def check(self) -> None:
        """Raises DataError for pairs of joints that do not exist, or a wrong number of sigmas."""
        last = len(self.names) - 1
        for name in ("flip_pairs", "skeleton"):
            for pair in getattr(self, name):
                self.require(max(pair) <= last, name, f"pairs of joints in 0..{last}", pair)
        for name in ("upper_body", "lower_body"):
            joints = getattr(self, name)
            expected = f"joints in 0..{last}, at least one with data.keypoints.half_body"
            self.require(joints or not self.half_body, name, expected)
            self.require(max(joints, default=0) <= max(last, 0), name, expected)
        expected = f"a positive number for each of the {last + 1} joints"
        self.require(len(self.sigmas) == len(self.names), "sigmas", expected)
