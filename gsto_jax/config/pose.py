"""Config options of pose estimation."""

from dataclasses import dataclass

from gsto_jax.config.fields import OPTIMIZER, RUNTIME, Section, option


@dataclass(frozen=True, kw_only=True)
class PoseConfig(Section, prefix="pose", role=RUNTIME):
    """Heatmaps, and decoding and scoring of poses. See `gsto_jax.pose`."""

    metric: str = option(
        "coco",
        "Metrics of the evaluation",
        choices={
            "coco": "COCO's average precision and recall",
            "pckh": "MPII's PCKh; annotations need head boxes",
            "wholebody": "COCO's metrics for each part of COCO-WholeBody's 133 joints",
        },
    )
    sigma: float = option(
        3.0,
        "Standard deviation of the target Gaussians in heatmap pixels",
        gt=0,
        role=OPTIMIZER,
    )
    ohkm_topk: int = option(
        0,
        "Number of joints per person with the largest errors that count in the loss (online hard "
        "keypoint mining); 0: all",
        ge=0,
        role=OPTIMIZER,
    )
    refinement: str = option(
        "quarter",
        "Subpixel refinement of joint positions",
        choices={
            "none": "largest pixel",
            "quarter": "a quarter pixel toward the larger neighbor, as published",
            "dark": "peak of a fitted Gaussian (DARK)",
        },
    )
    shift_heatmap: bool = option(
        True,
        "Shift the heatmaps of the flipped image by one pixel (eval.flip), as published; never with"
        " data.keypoints.udp",
    )
    visibility_threshold: float = option(
        0.2, "Minimum score of the joints that count in the score of a pose", ge=0, lt=1
    )
    nms: str = option(
        "hard",
        "Non-maximum suppression of duplicate poses",
        choices={"hard": "OKS-NMS", "soft": "soft OKS-NMS", "none": "none"},
    )
    oks_threshold: float = option(
        0.9, "OKS above which NMS takes two poses for the same person", gt=0, le=1
    )
