"""Pascal VOC 2012 with SBD, 21 classes: GSTO-HRNet-W48 with mmsegmentation's recipe.

    python main.py --mode=prepare --config=configs/pascal_voc_w48.py --source=DOWNLOADS
    python main.py --config=configs/pascal_voc_w48.py

DOWNLOADS holds `VOCtrainval_11-May-2012.tar` and SBD's `benchmark.tgz`, or their contents.
HRNetV2-W48 is published with 76.2 mIoU, 78.5 with `:ms`, from ImageNet weights: give a file as
`--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from configs.pascal_voc_w18s import PASCAL_VOC_SETTERS, set_pascal_voc


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2; `:noaug` trains without SBD."""
    config = base.get_config()
    config.name = "pascal_voc_w48"
    config.model.variant = "w48"
    set_pascal_voc(config)
    return base.apply_arguments(config, arg, PASCAL_VOC_SETTERS)
