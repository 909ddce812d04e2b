"""COCO-Stuff 164k, 171 classes: GSTO-HRNet-W48 with mmsegmentation's recipe.

    python main.py --mode=prepare --config=configs/coco_stuff_w48.py --source=DOWNLOADS
    python main.py --config=configs/coco_stuff_w48.py

DOWNLOADS holds `train2017.zip`, `val2017.zip` and `stuffthingmaps_trainval2017.zip`, or their
contents. mmsegmentation publishes no HRNet on this dataset; its other networks start from ImageNet
weights: give a file as `--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from configs.coco_stuff_w18s import set_coco_stuff


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2."""
    config = base.get_config()
    config.name = "coco_stuff_w48"
    config.model.variant = "w48"
    set_coco_stuff(config)
    return base.apply_arguments(config, arg)
