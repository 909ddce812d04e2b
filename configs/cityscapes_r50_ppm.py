"""Cityscapes: a dilated ResNet-50 with PPM and GSTO (Table 6, Figure 4).

    python main.py --mode=prepare --config=configs/cityscapes_r50_ppm.py --source=DOWNLOADS
    python main.py --config=configs/cityscapes_r50_ppm.py
    python main.py --config=configs/cityscapes_r50_ppm.py:gsto=unsup

DOWNLOADS holds `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`, or what is in them.
The paper's runs start from ImageNet weights. The recipe is that of the HRNets (section 4.3).
"""

from ml_collections import ConfigDict

from configs import base
from configs.cityscapes_w18s import CITYSCAPES_WORDS, set_cityscapes

KINDS = {
    "none": "none",
    "sup_only": "head_only",
    "unsup": "unsupervised",
    "sup": "supervised",
}
"""What stands behind `:gsto=`, and the `model.context_net.gating` that it is."""


def get_config(arg: str | None = None) -> ConfigDict:
    """PPM with supervised GSTO, or `:gsto=none|sup_only|unsup|sup`; `:trainval`, `:ohem`."""
    config = base.get_config()
    config.name = "cityscapes_r50_ppm"
    set_resnet50(config, "ppm")
    return base.finish(config, arg, CONTEXT_WORDS)


def set_resnet50(config: ConfigDict, context: str) -> None:
    """A context module on ResNet-50, its gates supervised, with the recipe of Cityscapes."""
    config.model.variant = "resnet50"
    config.model.context_net.module, config.model.context_net.gating = context, "supervised"
    config.model.init = "he"
    config.loss.stage_weights = (0.0, 0.0, 0.4, 1.0)  # the auxiliary head stands on stage 3
    set_cityscapes(config)


def set_gsto(config: ConfigDict, value: str) -> None:
    """Gates the context module otherwise: none | sup_only (a head that gates nothing) | ..."""
    if value not in KINDS:
        raise ValueError(f":gsto={value}: use {', '.join(KINDS)}")
    config.name += f"-{value}"
    config.model.context_net.gating = KINDS[value]


CONTEXT_WORDS: dict[str, base.Word] = {**CITYSCAPES_WORDS, "gsto=": set_gsto}
"""What may stand behind the colon."""
