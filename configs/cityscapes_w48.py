"""Cityscapes: GSTO-HRNet-W48 with the paper's recipe (section 4.3, Table 4).

    python main.py --config=configs/cityscapes_w48.py --config.data.root=DIR

DIR holds `leftImg8bit/` and `gtFine/` as downloaded. The paper's runs start from ImageNet weights.
"""

from ml_collections import ConfigDict

from configs import base
from configs.cityscapes_w18s import set_cityscapes


def get_config(arg: str | None = None) -> ConfigDict:
    """GSTO-HRNet-W48, or HRNetV2 with `:baseline`."""
    config = base.get_config()
    config.name = "cityscapes_w48"
    config.model.variant = "w48"
    set_cityscapes(config)
    return base.finish(config, arg)
