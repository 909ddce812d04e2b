"""Cityscapes: a dilated ResNet-50 with ASPP and GSTO (Table 6, Figure 4).

    python main.py --mode=prepare --config=configs/cityscapes_r50_aspp.py --source=DOWNLOADS
    python main.py --config=configs/cityscapes_r50_aspp.py
    python main.py --config=configs/cityscapes_r50_aspp.py:gating=unsupervised

DOWNLOADS holds `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`, or their contents.
The paper starts from ImageNet weights. The recipe is the HRNet recipe (section 4.3).
"""

from ml_collections import ConfigDict

from configs import base
from configs.cityscapes_r50_ppm import CONTEXT_SETTERS, set_resnet50


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:gating=` (see `set_gating`), `:trainval`, `:ohem`."""
    config = base.get_config()
    config.name = "cityscapes_r50_aspp"
    set_resnet50(config, "aspp")
    return base.apply_arguments(config, arg, CONTEXT_SETTERS)
