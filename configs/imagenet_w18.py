"""ImageNet: HRNet-W18-C with gates, by the recipe of HRNet's classification code.

    python main.py --mode=prepare --config=configs/imagenet_w18.py --source=DOWNLOADS
    python main.py --config=configs/imagenet_w18.py

See `configs/imagenet_w18s.py` for DOWNLOADS. It has not been trained here.
"""

from ml_collections import ConfigDict

from configs import base
from configs.imagenet_w18s import IMAGENET_SETTERS, set_imagenet


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNet-C; `:modern`, `:folders`."""
    config = base.get_config()
    config.name = "imagenet_w18"
    config.model.variant = "w18"
    set_imagenet(config)
    return base.apply_arguments(config, arg, IMAGENET_SETTERS)
