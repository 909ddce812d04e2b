"""COCO keypoints: GSTO-HRNet-W32 at 384x288.

    python main.py --mode=prepare --config=configs/coco_pose_w32.py --source=DOWNLOADS

DOWNLOADS holds `annotations_trainval2017.zip`, `train2017.zip` and `val2017.zip`, or what is in
them; for test-dev `image_info_test2017.zip` and `test2017.zip` too.
`--config.data.keypoints.detections=FILE` takes a detector's boxes for the evaluation.
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.keypoints import COCO_KEYPOINTS


def get_config(arg: str | None = None) -> ConfigDict:
    """GSTO-HRNet-W32, or HRNet with `:baseline`; at 256x192 with `:256x192`."""
    config = base.get_config()
    config.name = "coco_pose_w32"
    config.model.variant = "w32"
    set_coco(config)
    config.train.batch_size = 128
    return base.finish(config, arg, {"256x192": set_small})


def set_coco(config: ConfigDict) -> None:
    """Persons of 384x288, turned by up to 45 degrees, scaled by up to 35 %, flipped; 210 epochs.

    Adam, at a tenth of the rate after 170 and 200 of them. Tests average with the mirror image.
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

    base.set_prepared(config, COCO_KEYPOINTS.name)
    config.data.orientation = "stored"  # as published: annotations are of the files' rows
    config.data.crop = (384, 288)
    config.data.keypoints.names = COCO_KEYPOINTS.names
    config.data.keypoints.flip_pairs = COCO_KEYPOINTS.flip_pairs
    config.data.keypoints.skeleton = COCO_KEYPOINTS.skeleton
    config.data.keypoints.sigmas = COCO_KEYPOINTS.sigmas


def set_small(config: ConfigDict) -> None:
    """Persons of 256x192."""
    config.name += "-256x192"
    config.data.crop = (256, 192)
    config.pose.sigma = 2.0
