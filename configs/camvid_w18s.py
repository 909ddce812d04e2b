"""CamVid, SegNet's split of 11 classes: GSTO-HRNet-W18-Small-v2 from scratch.

    python main.py --config=configs/camvid_w18s.py --config.data.root=DIR

DIR holds `train.txt` and `val.txt`; each line names an image and its label PNG relative to DIR.
700 steps of 8 crops take 35 minutes on two CPU cores and reach 35.3 mIoU (37.0 with `:baseline`).
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.labels import CAMVID


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    config.name = "camvid_w18s"

    config.model.init = "he"

    config.optim.learning_rate = 0.02

    config.train.batch_size = 8
    config.train.steps = 700

    base.set_published(config)
    config.eval.batch_size = 4

    config.data.list_file = "{split}.txt"
    base.set_class_table(config, CAMVID)
    config.data.crop = (240, 320)
    config.data.num_scales = 16
    return base.apply_arguments(config, arg)
