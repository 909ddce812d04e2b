"""Pascal VOC 2012 with SBD, 21 classes: GSTO-HRNet-W18-Small-v2 with mmsegmentation's recipe.

    python main.py --mode=prepare --config=configs/pascal_voc_w18s.py --source=DOWNLOADS
    python main.py --config=configs/pascal_voc_w18s.py

DOWNLOADS holds `VOCtrainval_11-May-2012.tar` and SBD's `benchmark.tgz`, or their contents. For
HRNetV2-W18-Small, 66.6 mIoU is published, from ImageNet weights: give a file as
`--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.labels import PASCAL_VOC


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2; `:noaug` trains without SBD."""
    config = base.get_config()
    config.name = "pascal_voc_w18s"
    set_pascal_voc(config)
    return base.apply_arguments(config, arg, PASCAL_VOC_SETTERS)


def set_pascal_voc(config: ConfigDict) -> None:
    """Sets the dataset and 40000 steps of mmsegmentation's recipe."""
    set_mmsegmentation(config)
    config.train.steps = 40000
    base.set_prepared(config, PASCAL_VOC.name)
    config.data.train_split = "trainaug"
    base.set_class_table(config, PASCAL_VOC)


def set_mmsegmentation(config: ConfigDict) -> None:
    """Sets mmsegmentation's recipe: 16 crops of 512x512, scaled by 0.5 to 2, with color jitter.

    mmsegmentation scales by the short side, which is 512 at scale 1; a long side of 683 is the same
    for images of 4:3. Its limit on the classes of a crop and its smallest learning rate of 1e-4
    are left out.
    """
    config.train.batch_size = 16
    # mmsegmentation changes each of these in half the images.
    config.augment.brightness, config.augment.contrast = 32 / 255, 0.5
    config.augment.saturation, config.augment.hue = 0.5, 18 / 180
    config.eval.pad_to = 64  # few programs for images of many sizes; mmsegmentation does not pad
    config.data.crop = (512, 512)
    config.data.base_size = 683
    config.data.num_scales = 16


def set_noaug(config: ConfigDict) -> None:
    """Trains on the 1464 images of VOC's own split."""
    config.name += "-noaug"
    config.data.train_split = "train"


PASCAL_VOC_SETTERS: dict[str, base.Setter] = {"noaug": set_noaug}
"""Further arguments after the colon."""
