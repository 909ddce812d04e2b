"""ImageNet: HRNet-W18-C-Small-v2 with gates, by the recipe of HRNet's classification code.

    python main.py --mode=prepare --config=configs/imagenet_w18s.py --source=DOWNLOADS
    python main.py --config=configs/imagenet_w18s.py

DOWNLOADS holds `ILSVRC2012_img_train.tar`, `ILSVRC2012_img_val.tar` and
`ILSVRC2012_devkit_t12.tar.gz`, or the folders `train/n01440764/`, ... and `val/n01440764/`, ...
The checkpoint starts segmentation and pose: `--config.init_from=runs/imagenet_w18s`. It has not
been trained here.
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.imagenet import IMAGENET


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNet-C; `:modern`, see `set_modern`; `:folders`."""
    config = base.get_config()
    config.name = "imagenet_w18s"
    set_imagenet(config)
    return base.apply_arguments(config, arg, IMAGENET_SETTERS)


def set_imagenet(config: ConfigDict) -> None:
    """Sets the recipe: 100 epochs of 256 crops of 224x224 with SGD.

    The learning rate is 0.1 for 256 images, divided by 10 after 30, 60 and 90 epochs.
    """
    config.task = "classification"
    config.model.init = "he"
    config.model.bn_momentum = 0.9
    config.model.hrnet.head = "cls"
    # Gates that read the scores of a thousand classes would not fit other datasets.
    config.model.hrnet.gtm = ("none", "unsupervised", "unsupervised")
    config.train.batch_size = 256
    config.train.epochs = 100
    config.optim.nesterov = True
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.schedule, config.optim.milestones = "steps", (0.3, 0.6, 0.9)
    config.eval.batch_size = 256
    config.eval.sample_images = 64

    base.set_prepared(config, "imagenet")
    config.data.source = "class_records"
    config.data.classes = IMAGENET
    config.data.crop = (224, 224)


def set_modern(config: ConfigDict) -> None:
    """Sets a recipe for large batches: 4096 images, LAMB, cosine, label smoothing.

    The learning rate warms up over the first 5 of 100 epochs; neither BN nor biases decay.

    Raises:
      ValueError: the argument `batch=N` came before.
    """
    if config.train.recipe_batch_size:
        raise ValueError("config argument 'modern' must come before 'batch=N'")
    config.name += "-modern"
    config.train.batch_size = 4096
    config.optim.kind, config.optim.nesterov = "lamb", False
    config.optim.learning_rate = 8e-3
    config.optim.weight_decay, config.optim.decay_bn_and_bias = 0.02, False
    config.optim.schedule, config.optim.milestones = "cosine", ()
    config.optim.warmup_fraction, config.optim.warmup_start = 0.05, 0.0
    config.loss.label_smoothing = 0.1


def set_folders(config: ConfigDict) -> None:
    """Reads `config.data.root`/train/n01440764/*.JPEG, ... without preparation."""
    config.data.source, config.data.name, config.data.root = "class_folders", "", ""


IMAGENET_SETTERS = {"modern": set_modern, "folders": set_folders}
"""Further arguments after the colon."""
