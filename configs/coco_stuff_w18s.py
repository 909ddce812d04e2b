"""COCO-Stuff 164k, 171 classes: GSTO-HRNet-W18-Small-v2 with mmsegmentation's recipe.

    python main.py --mode=prepare --config=configs/coco_stuff_w18s.py --source=DOWNLOADS
    python main.py --config=configs/coco_stuff_w18s.py

DOWNLOADS holds `train2017.zip`, `val2017.zip` and `stuffthingmaps_trainval2017.zip`, or their
contents. mmsegmentation publishes no HRNet on this dataset; its other networks start from ImageNet
weights: give a file as `--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from configs.pascal_voc_w18s import set_mmsegmentation
from data_pipelines.class_tables.coco_stuff import COCO_STUFF


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2."""
    config = base.get_config()
    config.name = "coco_stuff_w18s"
    set_coco_stuff(config)
    return base.apply_arguments(config, arg)


def set_coco_stuff(config: ConfigDict) -> None:
    """Sets the dataset and 80000 steps of mmsegmentation's recipe."""
    set_mmsegmentation(config)
    config.train.steps = 80000
    base.set_prepared(config, COCO_STUFF.name)
    config.data.orientation = "stored"  # as for all of COCO
    base.set_class_table(config, COCO_STUFF)
