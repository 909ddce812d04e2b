"""Cityscapes: a dilated ResNet-50 with PPM and GSTO (Table 6, Figure 4).

    python main.py --mode=prepare --config=configs/cityscapes_r50_ppm.py --source=DOWNLOADS
    python main.py --config=configs/cityscapes_r50_ppm.py
    python main.py --config=configs/cityscapes_r50_ppm.py:gating=unsupervised

DOWNLOADS holds `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`, or their contents.
The paper starts from ImageNet weights. The recipe is the HRNet recipe (section 4.3).
"""

from ml_collections import ConfigDict

from configs import base
from configs.cityscapes_w18s import CITYSCAPES_SETTERS, set_cityscapes

GATINGS = ("none", "head_only", "unsupervised", "supervised")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:gating=` (see `set_gating`), `:trainval`, `:ohem`."""
    config = base.get_config()
    config.name = "cityscapes_r50_ppm"
    set_resnet50(config, "ppm")
    return base.apply_arguments(config, arg, CONTEXT_SETTERS)


def set_resnet50(config: ConfigDict, context: str) -> None:
    """Sets a context module with supervised gates on ResNet-50, and the recipe of Cityscapes."""
    config.model.variant = "resnet50"
    config.model.context_net.module, config.model.context_net.gating = context, "supervised"
    config.model.init = "he"
    config.loss.stage_weights = (0.0, 0.0, 0.4, 1.0)  # the auxiliary head is on stage 3
    set_cityscapes(config)


def set_gating(config: ConfigDict, value: str) -> None:
    """Sets the gates of the context module (Table 6); `head_only` gates nothing ("w/ sup")."""
    if value not in GATINGS:
        raise ValueError(f":gating= must be one of {', '.join(GATINGS)}; got {value!r}")
    config.name += f"-{value}"
    config.model.context_net.gating = value


CONTEXT_SETTERS: dict[str, base.Setter] = {**CITYSCAPES_SETTERS, "gating=": set_gating}
"""Further arguments after the colon."""
