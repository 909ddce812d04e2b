"""ADE20K, 150 classes: GSTO-HRNet-W48 with HRNet's recipe.

    python main.py --mode=prepare --config=configs/ade20k_w48.py --source=DOWNLOADS
    python main.py --config=configs/ade20k_w48.py

DOWNLOADS holds `ADEChallengeData2016.zip`, or its contents. HRNetV2-W48 is published with 43.1
mIoU, 44.2 with `:ms`, and with OCR 44.5 and 45.5, from ImageNet weights: give a file as
`--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from configs.ade20k_w18s import ADE20K_SETTERS, set_ade20k


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2; `:ms` has scale 2 too; `:ocr`."""
    config = base.get_config()
    config.name = "ade20k_w48"
    config.model.variant = "w48"
    set_ade20k(config)
    return base.apply_arguments(config, arg, ADE20K_SETTERS)
