"""Base config: the defaults of all options, and the arguments that all config files accept.

The options are declared in `gsto_jax/config/` and `data_pipelines/config.py`; docs/config.md lists
them with their meanings.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any

from ml_collections import ConfigDict, FieldReference

from data_pipelines.config import DataConfig
from data_pipelines.keypoints import KeypointTable
from data_pipelines.labels import ClassTable
from gsto_jax.config import Config, Section, iter_options

PREPARED = "~/gsto_data"
"""Default folder of prepared datasets."""

Setter = Callable[[ConfigDict], None] | Callable[[ConfigDict, str], None]
"""Changes a config as an argument after the colon says; gets the value of `NAME=VALUE`."""


def get_config() -> ConfigDict:
    """Returns the defaults: GSTO-HRNet-W18-Small-v2, without a dataset."""
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
    """Removes all gates and their heads: plain HRNetV2, HRNet for pose, or plain context module."""
    config.name += "-baseline"
    if config.model.variant.startswith("resnet"):
        config.model.context_net.gating = "none"
        return
    hrnet = config.model.hrnet
    hrnet.gfm, hrnet.gtm, hrnet.attention = False, ("none", "none", "none"), "none"
    if config.task == "pose":
        hrnet.head, hrnet.upsample = "v1", "nearest"
    elif config.task == "classification":
        hrnet.upsample = "nearest"


def apply_arguments(
    config: ConfigDict, arg: str | None, setters: Mapping[str, Setter] | None = None
) -> ConfigDict:
    """Applies the arguments after the colon of `--config=FILE:ARGUMENTS`.

    Args:
      config: the config of the experiment.
      arg: comma-separated arguments: `baseline` (no gates), `batch=N` (another batch size, see
        `set_batch`), `ms` (multi-scale and flip evaluation), `slide` (sliding-window evaluation),
        `runlocal` (a few small steps, to see that it runs).
      setters: further arguments. The name of one that takes a value ends in "=".

    Raises:
      ValueError: an unknown argument, or an invalid value.
    """
    setters = {
        "baseline": set_baseline,
        "batch=": _set_batch,
        "ms": set_multi_scale,
        "slide": set_slide,
        "runlocal": set_runlocal,
        **(setters or {}),
    }
    for argument in filter(None, (arg or "").split(",")):
        name, equals, value = argument.partition("=")
        setter = setters.get(name + equals)
        if setter is None:
            names = ", ".join(f"{name}..." if name.endswith("=") else name for name in setters)
            raise ValueError(f"config argument must be one of {names}; got ':{argument}'")
        setter(config, value) if equals else setter(config)  # type: ignore[call-arg]
    return config


def set_prepared(config: ConfigDict, name: str) -> None:
    """Uses a dataset that `--mode=prepare` wrote."""
    config.data.source = "tfds"
    config.data.root = PREPARED
    config.data.name = name


def set_class_table(config: ConfigDict, table: ClassTable) -> None:
    """Sets the names and colors of the classes, and the train id of each id in the label files."""
    config.data.classes = table.names
    config.data.palette = table.palette
    config.data.id_map = table.id_map


def set_keypoints(config: ConfigDict, table: KeypointTable) -> None:
    """Uses a prepared dataset of persons with these joints."""
    set_prepared(config, table.name)
    for name, value in vars(table).items():
        if name != "name":
            config.data.keypoints[name] = value


def _set_batch(config: ConfigDict, value: str) -> None:
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f":batch= must be a positive integer; got {value!r}")
    set_batch(config, int(value))


def set_batch(config: ConfigDict, batch_size: int) -> None:
    """Changes the batch size, and the number of steps so that as many images are seen.

    The learning rate is scaled linearly; for a larger batch it warms up from the original rate
    over the first 5 % of the steps, unless the config has a warm-up.
    """
    ratio = batch_size / config.train.batch_size
    config.name += f"-batch{batch_size}"
    if config.train.steps:
        config.train.steps = max(1, round(config.train.steps / ratio))
    config.train.recipe_batch_size = config.train.recipe_batch_size or config.train.batch_size
    config.train.batch_size = batch_size
    config.optim.learning_rate *= ratio
    if config.optim.warmup_fraction:
        return
    # The one-cycle schedule warms up by itself.
    warms_up = ratio > 1 and config.optim.schedule != "onecycle"
    config.optim.warmup_fraction = 0.05 if warms_up else 0.0
    config.optim.warmup_start = min(1 / ratio, 1.0)


def set_published(config: ConfigDict) -> None:
    """Evaluates images at their sizes, padded as in the published code."""
    config.eval.pad_to, config.eval.pad = "published", "mean"


def set_multi_scale(config: ConfigDict) -> None:
    """Evaluates at the paper's scales (section 4.3), each flipped too."""
    config.eval.scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    config.eval.flip = True


def set_slide(config: ConfigDict) -> None:
    """Evaluates by sliding windows of the training crop's size, which overlap by a third."""
    config.eval.window, config.eval.crop = "slide", (0, 0)
    config.eval.stride, config.eval.edge = 2 / 3, "pad"


def set_runlocal(config: ConfigDict) -> None:
    """Makes the run short and small, to see that it runs."""
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
    config.run.trackers = ()
