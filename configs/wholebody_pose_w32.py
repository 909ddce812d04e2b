"""COCO-WholeBody: GSTO-HRNet-W32 at 384x288 on 133 joints of body, feet, face and hands.

    python main.py --mode=prepare --config=configs/wholebody_pose_w32.py --source=DOWNLOADS
    python main.py --config=configs/wholebody_pose_w32.py

DOWNLOADS holds `coco_wholebody_train_v1.0.json`, `coco_wholebody_val_v1.0.json`, and COCO's
`train2017.zip` and `val2017.zip`, or their contents.
"""

from ml_collections import ConfigDict

from configs import base
from configs.coco_pose_w32 import ARGUMENTS, set_coco
from data_pipelines.keypoints import COCO_WHOLEBODY


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; its arguments are those of `coco_pose_w32.py`."""
    config = base.get_config()
    config.name = "wholebody_pose_w32"
    config.model.variant = "w32"
    set_coco(config)
    base.set_keypoints(config, COCO_WHOLEBODY)
    config.pose.metric = "wholebody"
    config.train.batch_size = 128
    return base.apply_arguments(config, arg, ARGUMENTS)
