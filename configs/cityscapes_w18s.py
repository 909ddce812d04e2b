"""Cityscapes: GSTO-HRNet-W18-Small-v2 with the paper's recipe (section 4.3).

    python main.py --mode=prepare --config=configs/cityscapes_w18s.py --source=DOWNLOADS
    python main.py --config=configs/cityscapes_w18s.py

DOWNLOADS holds `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`, or their contents.
The paper starts from ImageNet weights: give a file as `--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.labels import CITYSCAPES


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2; `:trainval`, `:ohem`, `:ocr`."""
    config = base.get_config()
    config.name = "cityscapes_w18s"
    set_cityscapes(config)
    return base.apply_arguments(config, arg, HRNET_SETTERS)


def set_cityscapes(config: ConfigDict) -> None:
    """Sets the recipe: 600 epochs of 12 crops of 512x1024, scaled by 0.5 to 2.1 and flipped."""
    config.train.batch_size = 12
    config.train.epochs = 600

    base.set_published(config)
    config.eval.window = "slide_upsampled"
    config.eval.crop = (1024, 2048)
    config.eval.stride, config.eval.edge, config.eval.pad = 1.0, "shift", "black"

    base.set_prepared(config, "cityscapes")
    base.set_class_table(config, CITYSCAPES)
    config.data.class_weights = CITYSCAPES.weights
    config.data.categories = CITYSCAPES.categories
    config.data.instance_sizes = CITYSCAPES.instance_sizes
    config.data.base_size = 2048


def set_trainval(config: ConfigDict) -> None:
    """Trains on train and val, for the test server; scores on val are then meaningless."""
    config.name += "-trainval"
    config.data.train_split = "trainval"


def set_ohem(config: ConfigDict) -> None:
    """Trains the last head on hard pixels only (OHEM)."""
    config.name += "-ohem"
    config.loss.terms = (("ohem", 1.0),)


def set_ocr(config: ConfigDict) -> None:
    """Adds object-contextual representations (docs/context.md), with the published settings."""
    config.name += "-ocr"
    config.model.hrnet.head = "ocr"
    config.model.align_corners = True
    config.model.bn_momentum = 0.9


CITYSCAPES_SETTERS: dict[str, base.Setter] = {"trainval": set_trainval, "ohem": set_ohem}
"""Further arguments after the colon."""
HRNET_SETTERS: dict[str, base.Setter] = {**CITYSCAPES_SETTERS, "ocr": set_ocr}
"""Further arguments after the colon, of an HRNet."""
