"""Cityscapes: GSTO-HRNet-W48 with the paper's recipe (section 4.3, Table 4).

    python main.py --mode=prepare --config=configs/cityscapes_w48.py --source=DOWNLOADS
    python main.py --config=configs/cityscapes_w48.py

DOWNLOADS holds `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`, or their contents.
The paper starts from ImageNet weights: give a file as `--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from configs.cityscapes_w18s import HRNET_SETTERS, set_cityscapes


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2; `:trainval`, `:ohem`, `:ocr`."""
    config = base.get_config()
    config.name = "cityscapes_w48"
    config.model.variant = "w48"
    set_cityscapes(config)
    return base.apply_arguments(config, arg, HRNET_SETTERS)
