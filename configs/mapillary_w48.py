"""Mapillary Vistas 1.2, 65 classes: GSTO-HRNet-W48 with mmsegmentation's recipe.

    python main.py --mode=prepare --config=configs/mapillary_w48.py --source=DOWNLOADS
    python main.py --config=configs/mapillary_w48.py

DOWNLOADS holds the zip of Mapillary Vistas 1.2 or 2.0, or its contents. mmsegmentation
publishes no HRNet on this dataset; its other networks start from ImageNet weights: give a file as
`--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from configs.mapillary_w18s import set_mapillary


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2."""
    config = base.get_config()
    config.name = "mapillary_w48"
    config.model.variant = "w48"
    set_mapillary(config)
    return base.apply_arguments(config, arg)
