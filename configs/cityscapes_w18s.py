"""Cityscapes: GSTO-HRNet-W18-Small-v2 with the paper's recipe (section 4.3).

    python main.py --config=configs/cityscapes_w18s.py --config.data.root=DIR

DIR holds `leftImg8bit/` and `gtFine/` as downloaded. The paper's runs start from ImageNet weights.
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.labels import CITYSCAPES


def get_config(arg: str | None = None) -> ConfigDict:
    """GSTO-HRNet-W18-Small-v2, or HRNetV2 with `:baseline`."""
    config = base.get_config()
    config.name = "cityscapes_w18s"
    set_cityscapes(config)
    return base.finish(config, arg)


def set_cityscapes(config: ConfigDict) -> None:
    """The recipe: 600 epochs of 12 crops 512x1024 at scales 0.5 to 2.1, flipped."""
    config.train.batch_size = 12
    config.train.epochs = 600

    config.data.images = "leftImg8bit/{split}"
    config.data.labels = "gtFine/{split}"
    config.data.image_suffix = "_leftImg8bit.png"
    config.data.label_suffix = "_gtFine_labelIds.png"
    config.data.classes = CITYSCAPES.names
    config.data.palette = CITYSCAPES.palette
    config.data.id_map = CITYSCAPES.id_map
    config.data.class_weights = CITYSCAPES.weights
    config.data.base_size = 2048
