"""ADE20K, 150 classes: GSTO-HRNet-W18-Small-v2 with HRNet's recipe.

    python main.py --mode=prepare --config=configs/ade20k_w18s.py --source=DOWNLOADS
    python main.py --config=configs/ade20k_w18s.py

DOWNLOADS holds `ADEChallengeData2016.zip`, or its contents. The published scores start from
ImageNet weights: give a file as `--config.init_from` (docs/weights.md).
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.class_tables.ade20k import ADE20K


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2; `:ms` has scale 2 too; `:ocr`."""
    config = base.get_config()
    config.name = "ade20k_w18s"
    set_ade20k(config)
    return base.apply_arguments(config, arg, ADE20K_SETTERS)


def set_ade20k(config: ConfigDict) -> None:
    """Sets the recipe: 120 epochs of 16 crops of 520x520, scaled by 0.5 to 1.6, with OHEM.

    Tests slide windows of the crop's size over images of long side 520, which fit into one. HRNet's
    first resize, to a short side of 520, is left out.
    """
    # As HRNet's OCR branch, the only one with ADE20K.
    config.model.align_corners, config.model.bn_momentum = True, 0.9

    config.loss.terms = (("ohem", 1.0),)
    config.loss.ohem_min_kept = 32768  # the published 131072 is per four images

    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-4

    config.train.batch_size = 16
    config.train.epochs = 120

    base.set_published(config)
    config.eval.window, config.eval.pad = "slide", "black"

    base.set_prepared(config, ADE20K.name)
    base.set_class_table(config, ADE20K)
    config.data.crop = (520, 520)
    config.data.base_size = 520
    config.data.num_scales = 12


def set_multi_scale(config: ConfigDict) -> None:
    """Evaluates at the published scales, each flipped too."""
    base.set_multi_scale(config)
    config.eval.scales = (*config.eval.scales, 2.0)


def set_ocr(config: ConfigDict) -> None:
    """Adds object-contextual representations (docs/context.md); crops are scaled by up to 2.1."""
    config.name += "-ocr"
    config.model.hrnet.head = "ocr"
    config.data.num_scales = 17


ADE20K_SETTERS: dict[str, base.Setter] = {"ms": set_multi_scale, "ocr": set_ocr}
"""Further arguments after the colon."""
