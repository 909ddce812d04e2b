"""LIP: GSTO-HRNet-W48 with the paper's recipe (section 4.3).

    python main.py --mode=prepare --config=configs/lip_w48.py --source=DOWNLOADS
    python main.py --config=configs/lip_w48.py

DOWNLOADS holds `TrainVal_images.zip`, `TrainVal_parsing_annotations.zip`, `train_id.txt` and
`val_id.txt`, or their contents. The paper starts from ImageNet weights.
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.labels import LIP


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2."""
    config = base.get_config()
    config.name = "lip_w48"
    config.model.variant = "w48"

    config.optim.learning_rate = 0.007

    config.train.batch_size = 40
    config.train.epochs = 150

    base.set_published(config)
    config.eval.flip = True

    base.set_prepared(config, "lip")
    base.set_class_table(config, LIP)
    config.data.flip_pairs = LIP.flip_pairs
    config.data.crop = (473, 473)
    config.data.fixed_size = (473, 473)
    config.data.num_scales = 12
    return base.apply_arguments(config, arg)
