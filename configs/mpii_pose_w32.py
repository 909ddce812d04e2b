"""MPII Human Pose: GSTO-HRNet-W32 at 256x256.

    python main.py --mode=prepare --config=configs/mpii_pose_w32.py --source=DOWNLOADS
    python main.py --config=configs/mpii_pose_w32.py

DOWNLOADS holds `images/` and the split files `train.json`, `valid.json` and `gt_valid.mat`, or the
release's `mpii_human_pose_v1_u12_1.mat` (prepare with `--partial`, and train with
`--config.data.val_fraction=0.1`; see docs/pose.md).
"""

from ml_collections import ConfigDict

from configs import base
from configs.coco_pose_w32 import set_coco, set_published_augmentation, set_udp
from data_pipelines.keypoints import MPII


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config.

    `:baseline` is HRNet; `:published` augments as HRNet's published code does, which has no half
    bodies for MPII; `:udp` uses unbiased data processing.
    """
    config = base.get_config()
    config.name = "mpii_pose_w32"
    config.model.variant = "w32"
    set_coco(config)
    set_mpii(config)
    config.train.batch_size = 128
    return base.apply_arguments(config, arg, {"published": set_published, "udp": set_udp})


def set_mpii(config: ConfigDict) -> None:
    """Sets what differs from the recipe for COCO: data, crops and metric."""
    base.set_keypoints(config, MPII)
    config.data.crop = (256, 256)
    config.data.keypoints.clip_boxes = False
    config.data.keypoints.rotation = 30.0
    config.data.keypoints.scale = 0.25
    config.pose.sigma = 2.0
    config.pose.metric = "pckh"
    config.pose.nms = "none"


def set_published(config: ConfigDict) -> None:
    """Draws rotations and scales as HRNet's published code does."""
    set_published_augmentation(config)
    config.data.keypoints.half_body = 0.0
