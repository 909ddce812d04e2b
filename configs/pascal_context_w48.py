"""Pascal Context: GSTO-HRNet-W48 with the paper's recipe (section 4.3).

    python main.py --mode=prepare --config=configs/pascal_context_w48.py --source=DOWNLOADS
    python main.py --config=configs/pascal_context_w48.py[:classes=60]

DOWNLOADS holds VOC 2010 (its tar, or JPEGImages/ and ImageSets/) and the labels: `trainval.tar.gz`
of .mat files with `labels.txt`, or SegmentationClassContext/ of PNGs. The paper starts from
ImageNet weights.
"""

from ml_collections import ConfigDict

from configs import base
from data_pipelines.labels import PASCAL_CONTEXT_59, PASCAL_CONTEXT_60

_CLASS_TABLES = {"59": PASCAL_CONTEXT_59, "60": PASCAL_CONTEXT_60}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:baseline` is HRNetV2; `:classes=60` includes the background."""
    config = base.get_config()
    config.name = "pascal_context_w48"
    config.model.variant = "w48"

    config.optim.learning_rate = 0.004
    config.optim.weight_decay = 1e-4

    config.train.batch_size = 16
    config.train.epochs = 280

    base.set_published(config)
    config.eval.window, config.eval.pad = "slide", "black"

    base.set_prepared(config, "pascal_context")
    config.data.crop = (480, 480)
    config.data.base_size = 520
    set_classes(config, "59")
    return base.apply_arguments(config, arg, {"classes=": set_classes})


def set_classes(config: ConfigDict, count: str) -> None:
    """Sets 59 classes with the background ignored, or 60 classes, for the same dataset."""
    if count not in _CLASS_TABLES:
        raise ValueError(f":classes= must be one of {', '.join(_CLASS_TABLES)}; got {count!r}")
    table = _CLASS_TABLES[count]
    config.name = config.name.replace("-60", "") + ("-60" if count == "60" else "")
    base.set_class_table(config, table)
