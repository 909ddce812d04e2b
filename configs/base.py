"""The base configuration: the defaults of all options, which the other files override.

docs/config.md lists the options with their meanings, and which of them may change during a run.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any

from ml_collections import ConfigDict, FieldReference

from data_pipelines.config import DataConfig
from gsto_jax.config import Config, Section, iter_options

PREPARED = "~/gsto_data"
"""Where prepared datasets lie, unless `config.data.root` says otherwise."""

Word = Callable[[ConfigDict], None] | Callable[[ConfigDict, str], None]


def get_config() -> ConfigDict:
    """GSTO-HRNet-W18-Small-v2 on data that an experiment must name."""
    config = _defaults(Config)
    config.data = _defaults(DataConfig)
    return config.lock()


def options() -> dict[str, Any]:
    """Returns the field that declares each option, by its dotted name."""
    return dict([*iter_options(Config), *iter_options(DataConfig, "data.")])


def _defaults(section: type[Section]) -> ConfigDict:
    """Returns the options of a section with their defaults."""
    config = ConfigDict()
    for field in dataclasses.fields(section):
        if inner := field.metadata.get("section"):
            config[field.name] = _defaults(inner)
        elif isinstance(field.type, UnionType):
            config[field.name] = FieldReference(field.default, field_type=object)
        else:
            config[field.name] = field.default
    return config


def set_baseline(config: ConfigDict) -> None:
    """Takes all gates and their heads away: plain HRNetV2, for pose HRNet, or a plain module."""
    config.name += "-baseline"
    if config.model.variant.startswith("resnet"):
        config.model.context_net.gating = "none"
        return
    hrnet = config.model.hrnet
    hrnet.gfm, hrnet.gtm, hrnet.attention = False, ("none", "none", "none"), "none"
    if config.task == "pose":
        hrnet.head, hrnet.upsample = "v1", "nearest"


def finish(
    config: ConfigDict, arg: str | None, words: Mapping[str, Word] | None = None
) -> ConfigDict:
    """Applies what stands behind the colon of `--config=FILE:ARG`.

    Args:
      config: the experiment's options.
      arg: comma-separated words: `baseline` (plain HRNetV2), `batch=N` (another batch, see
        `set_batch`), `ms` (test at several scales, mirrored too), `slide` (test by windows),
        `runlocal` (a few small steps).
      words: more of them; one that ends in "=" takes what follows as its second argument.

    Raises:
      ValueError: an unknown word, or a value that it cannot take.
    """
    known: dict[str, Word] = {"baseline": set_baseline, "batch=": _set_batch}
    known |= {"ms": set_multi_scale, "slide": set_slide, "runlocal": set_runlocal}
    known |= words or {}
    for word in filter(None, (arg or "").split(",")):
        name, equals, value = word.partition("=")
        change = known.get(name + equals)
        if change is None:
            shown = ", ".join(f"{word}..." if word.endswith("=") else word for word in known)
            raise ValueError(f"unknown config argument ':{word}': use {shown}")
        change(config, value) if equals else change(config)  # type: ignore[call-arg]
    return config


def set_prepared(config: ConfigDict, name: str) -> None:
    """Reads a dataset that `--mode=prepare` made."""
    config.data.source = "tfds"
    config.data.root = PREPARED
    config.data.name = name


def _set_batch(config: ConfigDict, value: str) -> None:
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f":batch={value}: give a positive number")
    set_batch(config, int(value))


def set_batch(config: ConfigDict, batch_size: int) -> None:
    """Trains on the same number of images in batches of another size.

    The linear rule: the learning rate changes as the batch does. A larger one warms up from the
    original rate over the first 5 % of the steps.
    """
    ratio = batch_size / config.train.batch_size
    config.name += f"-batch{batch_size}"
    if config.train.steps:
        config.train.steps = max(1, round(config.train.steps / ratio))
    config.train.batch_size = batch_size
    config.optim.learning_rate *= ratio
    config.optim.warmup_fraction = 0.05 if ratio > 1 else 0.0
    config.optim.warmup_start = min(1 / ratio, 1.0)


def set_published(config: ConfigDict) -> None:
    """Tests images as they are, whatever their sizes, as the published code does."""
    config.eval.pad_to, config.eval.pad = "published", "mean"


def set_multi_scale(config: ConfigDict) -> None:
    """Tests at the paper's scales (section 4.3), each mirrored too."""
    config.eval.scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    config.eval.flip = True


def set_slide(config: ConfigDict) -> None:
    """Tests by windows of the size of training, with overlap."""
    config.eval.window, config.eval.crop = "slide", (0, 0)
    config.eval.stride, config.eval.edge = 2 / 3, "pad"


def set_runlocal(config: ConfigDict) -> None:
    """Makes the run short and small, to see that it works."""
    config.name += "-runlocal"
    config.train.batch_size = 2
    config.train.steps, config.train.epochs = 4, 0
    config.data.crop = tuple(min(side, 128) for side in config.data.crop)
    config.eval.crop = tuple(min(side, 128) for side in config.eval.crop)
    config.data.base_size = min(config.data.base_size, 256)
    config.data.fixed_size = tuple(min(side, 256) for side in config.data.fixed_size)
    config.data.train_size = 8
    config.data.eval_size = 4
    config.run.log_every = 1
    config.run.tensorboard = False
