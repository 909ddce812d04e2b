"""COCO keypoints: GSTO-HRNet-W48 at 384x288.

    python main.py --mode=prepare --config=configs/coco_pose_w48.py --source=DOWNLOADS

DOWNLOADS holds `annotations_trainval2017.zip`, `train2017.zip` and `val2017.zip`, or what is in
them; for test-dev `image_info_test2017.zip` and `test2017.zip` too.
`--config.data.keypoints.detections=FILE` takes a detector's boxes for the evaluation.
"""

from ml_collections import ConfigDict

from configs import base
from configs.coco_pose_w32 import set_coco, set_small


def get_config(arg: str | None = None) -> ConfigDict:
    """GSTO-HRNet-W48, or HRNet with `:baseline`; at 256x192 with `:256x192`."""
    config = base.get_config()
    config.name = "coco_pose_w48"
    config.model.variant = "w48"
    set_coco(config)
    config.train.batch_size = 80
    return base.finish(config, arg, {"256x192": set_small})
