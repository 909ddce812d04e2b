"""COCO keypoints: GSTO-HRNet-W48 at 384x288.

    python main.py --mode=prepare --config=configs/coco_pose_w48.py --source=DOWNLOADS
    python main.py --config=configs/coco_pose_w48.py

DOWNLOADS holds `annotations_trainval2017.zip`, `train2017.zip` and `val2017.zip`, or their
contents; for test-dev `image_info_test2017.zip` and `test2017.zip` too.
`--config.data.keypoints.detections=FILE` evaluates with the boxes of a detector.
"""

from ml_collections import ConfigDict

from configs import base
from configs.coco_pose_w32 import ARGUMENTS, set_coco


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; its arguments are those of `coco_pose_w32.py`."""
    config = base.get_config()
    config.name = "coco_pose_w48"
    config.model.variant = "w48"
    set_coco(config)
    config.train.batch_size = 80
    return base.apply_arguments(config, arg, ARGUMENTS)
