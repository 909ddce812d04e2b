"""COCO keypoints: GSTO-HRNet-W32 at 384x288.

    python main.py --mode=prepare --config=configs/coco_pose_w32.py --source=DOWNLOADS

DOWNLOADS holds `annotations_trainval2017.zip`, `train2017.zip` and `val2017.zip`, or what is in
them. The optimiser of the paper, Adam, comes with the network.
`--config.data.keypoints.detections=FILE` takes a detector's boxes for the evaluation.
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.keypoints import COCO_KEYPOINTS


def get_config(arg: str | None = None) -> ConfigDict:
    """GSTO-HRNet-W32, or HRNet with `:baseline`."""
    config = base.get_config()
    config.name = "coco_pose_w32"
    config.model.variant = "w32"
    set_coco(config)
    config.train.batch_size = 128
    return base.finish(config, arg)


def set_coco(config: ConfigDict) -> None:
    """Persons of 384x288, turned by up to 45 degrees, scaled by up to 35 %, flipped; 210 epochs."""
    config.task = "pose"
    config.train.epochs = 210

    base.set_prepared(config, COCO_KEYPOINTS.name)
    config.data.crop = (384, 288)
    config.data.keypoints.names = COCO_KEYPOINTS.names
    config.data.keypoints.flip_pairs = COCO_KEYPOINTS.flip_pairs
    config.data.keypoints.skeleton = COCO_KEYPOINTS.skeleton
    config.data.keypoints.sigmas = COCO_KEYPOINTS.sigmas
