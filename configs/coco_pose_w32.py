"""COCO keypoints: GSTO-HRNet-W32 at 384x288.

    python main.py --mode=prepare --config=configs/coco_pose_w32.py --source=DOWNLOADS
    python main.py --config=configs/coco_pose_w32.py

DOWNLOADS holds `annotations_trainval2017.zip`, `train2017.zip` and `val2017.zip`, or their
contents; for test-dev `image_info_test2017.zip` and `test2017.zip` too.
`--config.data.keypoints.detections=FILE` evaluates with the boxes of a detector.
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.keypoints import COCO_KEYPOINTS


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config.

    `:baseline` is HRNet; `:256x192` sets the size of the crops; `:published` augments as HRNet's
    published code does; `:udp` uses unbiased data processing.
    """
    config = base.get_config()
    config.name = "coco_pose_w32"
    config.model.variant = "w32"
    set_coco(config)
    config.train.batch_size = 128
    return base.apply_arguments(config, arg, ARGUMENTS)


def set_coco(config: ConfigDict) -> None:
    """Sets the recipe: 210 epochs of person crops of 384x288 with Adam.

    Crops are rotated by up to 45 degrees, scaled by up to 35 % and flipped. The learning rate is
    divided by 10 after 170 and 200 epochs. Evaluation averages with the flipped image.
    """
    config.task = "pose"
    config.optim.kind, config.optim.weight_decay = "adam", 0.0
    config.optim.learning_rate = 1e-3
    config.optim.schedule, config.optim.milestones = "steps", (170 / 210, 200 / 210)
    config.train.epochs = 210
    config.eval.batch_size = 32
    config.eval.flip = True
    config.eval.sample_images = 64
    config.pose.sigma = 3.0

    base.set_keypoints(config, COCO_KEYPOINTS)
    config.data.orientation = "stored"  # as published: annotations refer to the stored pixels
    config.data.crop = (384, 288)


def set_published_augmentation(config: ConfigDict) -> None:
    """Augments as HRNet's published code does: half bodies, normal rotations and scales."""
    config.name += "-published"
    config.data.keypoints.half_body = 0.3
    config.data.keypoints.distribution = "normal"


def set_256x192(config: ConfigDict) -> None:
    """Sets person crops of 256x192."""
    config.name += "-256x192"
    config.data.crop = (256, 192)
    config.pose.sigma = 2.0


def set_udp(config: ConfigDict) -> None:
    """Uses unbiased data processing, and decodes by a fitted Gaussian."""
    config.name += "-udp"
    config.data.keypoints.udp = True
    config.pose.refinement = "dark"


ARGUMENTS = {
    "256x192": set_256x192,
    "published": set_published_augmentation,
    "udp": set_udp,
}
"""Arguments of the COCO configs."""
