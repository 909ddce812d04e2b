"""Mapillary Vistas 1.2, 65 classes: GSTO-HRNet-W18-Small-v2 with mmsegmentation's recipe.

    python main.py --mode=prepare --config=configs/mapillary_w18s.py --source=DOWNLOADS
    python main.py --config=configs/mapillary_w18s.py

DOWNLOADS holds the zip of Mapillary Vistas 1.2 or 2.0, or its contents. mmsegmentation
publishes no HRNet on this dataset; its other networks start from ImageNet weights: give a file as
`--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from configs.pascal_voc_w18s import set_mmsegmentation
from data_pipelines.class_tables.mapillary import MAPILLARY


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2."""
    config = base.get_config()
    config.name = "mapillary_w18s"
    set_mapillary(config)
    return base.apply_arguments(config, arg)


def set_mapillary(config: ConfigDict) -> None:
    """Sets the dataset and 240000 steps of 8 crops of 512x1024 of mmsegmentation's recipe.

    A long side of 1365 is the short side 1024 of that recipe for images of 4:3.
    """
    set_mmsegmentation(config)
    config.train.batch_size = 8
    config.train.steps = 240000
    config.eval.pad_to = 128
    base.set_prepared(config, MAPILLARY.name)
    base.set_class_table(config, MAPILLARY)
    config.data.crop = (512, 1024)
    config.data.base_size = 1365
