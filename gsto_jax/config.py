"""The library's settings: frozen, validated once, then passed around as they are.

`configs/base.py` lists every field with its default and what it means.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import jax
import jax.numpy as jnp

from gsto_jax.errors import UserError
from gsto_jax.layers.context import CONTEXT_KINDS, CONTEXTS
from gsto_jax.layers.conv import INITIALIZERS
from gsto_jax.layers.norm import STATISTICS
from gsto_jax.models.hrnet import HEADS
from gsto_jax.models.specs import (
    RESNETS,
    AttentionSpec,
    GSTOSpec,
    ResNetSpec,
    has_gates,
    variant,
)
from gsto_jax.ops.dispatch import IMPLEMENTATIONS
from gsto_jax.ops.padding import PUBLISHED
from gsto_jax.pose.heatmaps import REFINEMENTS
from gsto_jax.pose.oks import SUPPRESSIONS


def _require(ok: bool, field: str, value: object, remedy: str) -> None:
    if not ok:
        raise UserError(f"config.{field} is {value!r}: {remedy}")


def _one_of(value: str, field: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, field, value, f"use one of {', '.join(choices)}")


_HRNET_ONLY: dict[str, Any] = {
    "gfm": False,
    "gtm": ("none", "none", "none"),
    "attention": "none",
    "head": "v2",
    "upsample": "bilinear",
}
"""Settings that say nothing of a ResNet, and what they then have to be."""


_PAD_TO = range(4, 4097, 4)
"""Multiples that sides may be padded to: logits have a quarter of the resolution at least."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network. See `GSTOSpec`, `AttentionSpec`, `HRNet` and `ContextNet` for the fields."""

    variant: str
    gfm: bool
    self_gate: bool
    gate: str
    gtm: tuple[str, str, str]
    gtm_form: str
    context: str
    context_gsto: str
    head: str
    upsample: str
    align_corners: bool
    init: str
    bn_momentum: float
    bn_statistics: str
    bn_groups: int
    remat: bool
    implementation: str
    attention: str
    attention_place: str
    pack: bool
    dtype: str

    def __post_init__(self) -> None:
        """Raises UserError for values that no network has."""
        object.__setattr__(self, "gtm", tuple(self.gtm))
        body = variant(self.variant)
        _ = self.gsto, self.attention_spec
        _one_of(self.context, "model.context", ("none", *CONTEXTS))
        _one_of(self.context_gsto, "model.context_gsto", CONTEXT_KINDS)
        _one_of(self.head, "model.head", HEADS)
        _one_of(self.upsample, "model.upsample", ("bilinear", "nearest"))
        _one_of(self.init, "model.init", tuple(INITIALIZERS))
        _one_of(self.dtype, "model.dtype", ("float32", "bfloat16", "float64"))
        _require(
            self.dtype != "float64" or jax.dtypes.canonicalize_dtype("float64") == "float64",
            "model.dtype",
            self.dtype,
            "set the environment variable JAX_ENABLE_X64=1 to compute in float64",
        )
        _require(0 <= self.bn_momentum < 1, "model.bn_momentum", self.bn_momentum, "use [0, 1)")
        _one_of(self.implementation, "model.implementation", ("auto", *IMPLEMENTATIONS))
        _one_of(self.bn_statistics, "model.bn_statistics", STATISTICS)
        _require(self.bn_groups >= 1, "model.bn_groups", self.bn_groups, "use 1 or more")
        if isinstance(body, ResNetSpec):
            self._check_context()
            return
        for name in ("context", "context_gsto"):
            remedy = f"leave it at 'none', or set model.variant to one of {', '.join(RESNETS)}"
            _require(getattr(self, name) == "none", f"model.{name}", getattr(self, name), remedy)

    def _check_context(self) -> None:
        """A ResNet has a context module, and nothing of what only an HRNet has."""
        remedy = f"use one of {', '.join(CONTEXTS)} on {self.variant}"
        _require(self.context != "none", "model.context", self.context, remedy)
        for name, plain in _HRNET_ONLY.items():
            value = getattr(self, name)
            remedy = f"it is for HRNets, so set it to {plain!r} for {self.variant}"
            _require(value == plain, f"model.{name}", value, remedy)

    @property
    def gsto(self) -> GSTOSpec:
        """The gates."""
        return GSTOSpec(
            gfm=self.gfm,
            self_gate=self.self_gate,
            gate=self.gate,
            gtm=self.gtm,
            gtm_form=self.gtm_form,
        )

    @property
    def attention_spec(self) -> AttentionSpec:
        """The gates that are not GSTO's."""
        return AttentionSpec(kind=self.attention, place=self.attention_place)

    @property
    def has_gates(self) -> bool:
        """Whether it gates anything."""
        return has_gates(self.gfm, (*self.gtm, self.context_gsto))

    @property
    def output_stride(self) -> int:
        """How many times smaller than the picture the logits are."""
        body = variant(self.variant)
        return body.output_stride if isinstance(body, ResNetSpec) else 4

    @property
    def kernels(self) -> str | None:
        """`implementation`, as functions take it: None for "auto"."""
        return None if self.implementation == "auto" else self.implementation

    @property
    def loss_kernels(self) -> str | None:
        """The same for the loss, which has no kernel for GPUs."""
        return "xla" if self.implementation == "pallas_gpu" else self.kernels

    @property
    def compute_dtype(self) -> Any:
        """The dtype that `dtype` names."""
        return jnp.dtype(self.dtype)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Loss of the heads. See `gsto_jax.losses`."""

    kind: str
    stage_weights: tuple[float, float, float, float]
    context_weight: float
    class_weights: bool
    ohem_threshold: float
    ohem_kept: int

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        _one_of(self.kind, "loss.kind", ("ce", "ohem"))
        weights = tuple(self.stage_weights)
        object.__setattr__(self, "stage_weights", weights)
        _require(
            len(weights) == 4 and min(weights) >= 0 and weights[-1] > 0,
            "loss.stage_weights",
            weights,
            "give four weights, none negative, the last one positive",
        )
        context = self.context_weight
        _require(context >= 0, "loss.context_weight", context, "use 0 or more")
        threshold, kept = self.ohem_threshold, self.ohem_kept
        _require(0 <= threshold <= 1, "loss.ohem_threshold", threshold, "use a probability, 0 to 1")
        _require(kept >= 0, "loss.ohem_kept", kept, "use a number of pixels an image, 0 or more")

    @property
    def by_stage(self) -> dict[str, float]:
        """Weight by "stage1" to "stage4", and "context"."""
        stages = {f"stage{n}": weight for n, weight in enumerate(self.stage_weights, 1)}
        return stages | {"context": self.context_weight}


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its schedule. See `gsto_jax.training.optim`."""

    kind: str
    schedule: str
    learning_rate: float
    momentum: float
    weight_decay: float
    poly_power: float
    lr_lag: bool
    milestones: tuple[float, ...]
    decay: float
    warmup_fraction: float
    warmup_start: float
    ema_decay: float

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        object.__setattr__(self, "milestones", tuple(self.milestones))
        _one_of(self.kind, "optim.kind", ("sgd", "adam"))
        _one_of(self.schedule, "optim.schedule", ("poly", "steps"))
        _require(
            all(0 < share < 1 for share in self.milestones)
            and list(self.milestones) == sorted(self.milestones),
            "optim.milestones",
            self.milestones,
            "give shares of the run between 0 and 1, ascending",
        )
        _require(0 < self.decay <= 1, "optim.decay", self.decay, "use a factor above 0, at most 1")
        _require(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "use > 0")
        _require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "use [0, 1)")
        _require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "use >= 0")
        _require(self.poly_power > 0, "optim.poly_power", self.poly_power, "use > 0")
        for name in ("warmup_fraction", "warmup_start"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"optim.{name}", value, "use 0 to 1")
        _require(
            0 <= self.ema_decay < 1, "optim.ema_decay", self.ema_decay, "use [0, 1), 0 for none"
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, and on how many images a step."""

    batch_size: int
    accumulate: int
    steps: int
    epochs: int

    def __post_init__(self) -> None:
        """Raises UserError unless exactly one of steps and epochs says how long."""
        _require(self.batch_size >= 1, "train.batch_size", self.batch_size, "use at least 1")
        _require(
            self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
            "train.accumulate",
            self.accumulate,
            f"use a divisor of train.batch_size, {self.batch_size}",
        )
        _require(self.steps >= 0, "train.steps", self.steps, "use 0 (by epochs) or more")
        _require(self.epochs >= 0, "train.epochs", self.epochs, "use 0 (by steps) or more")
        if (self.steps > 0) == (self.epochs > 0):
            raise UserError(
                f"config.train.steps is {self.steps} and config.train.epochs {self.epochs}: "
                "set one of them, and the other to 0"
            )

    def total_steps(self, images: int) -> int:
        """Steps of the run on a training set of so many images: an epoch drops its remainder."""
        return self.steps or self.epochs * (images // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation and its images; see `gsto_jax.segmentation.protocol.Protocol`."""

    batch_size: int
    scales: tuple[float, ...]
    flip: bool
    window: str
    crop: tuple[int, int]
    stride: float
    edge: str
    pad: str
    pad_to: int | str
    score: str
    absent: str
    pictures: int
    figures: int

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        for name in ("scales", "crop"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _require(self.batch_size >= 1, "eval.batch_size", self.batch_size, "use at least 1")
        _require(
            self.pad_to == PUBLISHED or (type(self.pad_to) is int and self.pad_to in _PAD_TO),
            "eval.pad_to",
            self.pad_to,
            f"give a number of pixels that 4 divides, such as 32, up to {_PAD_TO[-1]}, or "
            f"'{PUBLISHED}'",
        )
        _one_of(self.pad, "eval.pad", ("edge", "mean", "black"))
        _one_of(self.absent, "eval.absent", ("exclude", "zero"))
        _require(self.pictures >= -1, "eval.pictures", self.pictures, "use -1 (all), 0 or more")
        _require(self.figures >= -1, "eval.figures", self.figures, "use -1 (all), 0 or more")


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """Heatmaps, and what becomes of the joints found in them. See `gsto_jax.pose`."""

    sigma: float
    hardest: int
    refinement: str
    flip_shift: bool
    visible: float
    suppression: str
    similarity: float

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        _require(self.sigma > 0, "pose.sigma", self.sigma, "use pixels of the heatmap, above 0")
        _require(self.hardest >= 0, "pose.hardest", self.hardest, "use 0 (all joints) or more")
        _one_of(self.refinement, "pose.refinement", REFINEMENTS)
        _require(0 <= self.visible < 1, "pose.visible", self.visible, "use a score, [0, 1)")
        _one_of(self.suppression, "pose.suppression", SUPPRESSIONS)
        _require(0 < self.similarity <= 1, "pose.similarity", self.similarity, "use above 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What changes nothing in the result."""

    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    eval_every: int
    stop_at: int
    profile_start: int
    profile_steps: int
    stall_seconds: float
    tensorboard: bool
    compilation_cache: str

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        for name in ("log_every", "checkpoint_every", "keep_checkpoints", "profile_steps"):
            value = getattr(self, name)
            _require(value >= 1, f"run.{name}", value, "use at least 1")
        for name in ("eval_every", "stop_at", "profile_start"):
            value = getattr(self, name)
            _require(value >= 0, f"run.{name}", value, "use a number of steps, 0 for none")
        stall = self.stall_seconds
        _require(stall >= 0, "run.stall_seconds", stall, "use seconds, 0 to watch nothing")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How the work is divided over the devices. See `gsto_jax.devices.mesh`."""

    space: int
    shard_parameters: bool

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        _require(self.space >= 1, "parallel.space", self.space, "use 1 (whole pictures) or more")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything but the data, which `data_pipelines.DataConfig` holds."""

    name: str
    task: str
    init_from: str
    init_prefix: str
    seed: int
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    train: TrainConfig
    eval: EvalConfig
    pose: PoseConfig
    parallel: ParallelConfig
    run: RunConfig

    def __post_init__(self) -> None:
        """Raises UserError for an unknown task, a bad seed, or groups of BN that do not divide."""
        _one_of(self.task, "task", ("segmentation", "pose"))
        part = self.train.batch_size // self.train.accumulate
        _require(
            part % self.model.bn_groups == 0,
            "model.bn_groups",
            self.model.bn_groups,
            f"use a divisor of the {part} pictures that pass at a time (train.batch_size / "
            "train.accumulate)",
        )
        _require(0 <= self.seed < 2**32, "seed", self.seed, "use 0 to 2^32 - 1")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Validates nested plain values, such as `ConfigDict.to_dict()` without `data`.

        Raises:
          UserError: an unknown or missing field, or a value that cannot work.
        """
        return _build(cls, values, "config")


def _build(cls: Any, values: Mapping[str, Any], place: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in sorted(set(values) ^ set(fields)):
        if f"{place}.{name}" in REMOVED:
            continue
        problem = "is missing" if name in fields else "is not a setting"
        raise UserError(f"{place}.{name} {problem}: is it of another version?")
    built = {}
    for name, field in fields.items():
        value, where = values[name], f"{place}.{name}"
        if dataclasses.is_dataclass(field.type):
            if not isinstance(value, Mapping):
                raise UserError(f"{where} is {str(value)[:_SHOWN]}: give a section of settings")
            built[name] = _build(field.type, value, where)
            continue
        if not _fits(value, field.type):
            raise UserError(f"{where} is {repr(value)[:_SHOWN]}: give {_wanted(field.type)}")
        built[name] = value
    return cls(**built)


_SHOWN = 100  # letters of a value in a message
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "True or False",
    int | str: "a whole number or a text",
}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a setting's type; how many a tuple holds is its section's to check."""
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_fits(v, get_args(kind)[0]) for v in value)
    if kind is float:  # NaN is not below anything
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    return isinstance(value, kind)


def _wanted(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list, each of them {_WORDS[get_args(kind)[0]]}"
    return _WORDS[kind]


ADDED: dict[str, Any] = {
    "init_from": "",
    "init_prefix": "auto",
    "model": {
        "head": "v2",
        "context": "none",
        "context_gsto": "none",
        "bn_statistics": "two_pass",
        "bn_groups": 1,
        "remat": False,
        "implementation": "auto",
        "attention": "none",
        "attention_place": "block",
        "pack": True,
    },
    "data": {"alpha": "white", "orientation": "upright", "bit_depth": 0},
    "loss": {"context_weight": 0.4},
    "optim": {"kind": "sgd", "schedule": "poly", "milestones": (), "decay": 0.1},
    "pose": {
        "sigma": 3.0,
        "hardest": 0,
        "refinement": "quarter",
        "flip_shift": True,
        "visible": 0.2,
        "suppression": "hard",
        "similarity": 0.9,
    },
    "eval": {"pad_to": 32},
    "parallel": {"space": 1, "shard_parameters": False},
    "run": {"stall_seconds": 60.0, "profile_start": 0, "profile_steps": 5},
}
"""What settings were before they could be set, for checkpoints that are older."""


REMOVED = ("config.eval.canvases",)
"""Settings that older checkpoints hold and that decide nothing anymore."""


def filled(config: Mapping[str, Any], defaults: Mapping[str, Any] = ADDED) -> dict[str, Any]:
    """Nested plain values, with what they lack from the defaults."""
    deeper = {
        name: filled(value, defaults.get(name, {})) if isinstance(value, Mapping) else value
        for name, value in config.items()
    }
    return {**defaults, **deeper}


RUNTIME = "runtime"
OTHER = "other"
_KINDS = {
    "task": "model",
    "init_from": "model",
    "init_prefix": "model",
    "seed": "optimiser",
    "model": "model",
    "model.bn_statistics": RUNTIME,
    "model.bn_groups": "optimiser",
    "model.remat": RUNTIME,
    "model.implementation": RUNTIME,
    "model.pack": RUNTIME,
    "loss": "optimiser",
    "optim": "optimiser",
    "train": "optimiser",
    "data": "data",
    "data.root": RUNTIME,
    "data.storage": RUNTIME,
    "data.categories": RUNTIME,
    "data.instance_sizes": RUNTIME,
    "data.keypoints.detections": RUNTIME,
    "data.workers": RUNTIME,
    "data.eval_split": RUNTIME,
    "data.test_split": RUNTIME,
    "data.eval_size": RUNTIME,
    "name": RUNTIME,
    "eval": RUNTIME,
    "pose": RUNTIME,
    "pose.sigma": "optimiser",
    "pose.hardest": "optimiser",
    "parallel": RUNTIME,
    "run": RUNTIME,
}


def kind(field: str) -> str:
    """What a setting decides: "model", "data" or "optimiser" make the result, "runtime" does not.

    Args:
      field: its dotted name, such as "optim.momentum".

    Returns:
      Its kind; "other" for what this version has no section for.
    """
    while field not in _KINDS and "." in field:
        field = field.rpartition(".")[0]
    return _KINDS.get(field, OTHER)


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """The settings that decide the result and differ between two nested plain configurations.

    Args:
      old: of the run that exists.
      new: of the one that would go on with it.
      defaults: of the settings that came after the run was made.

    Returns:
      For each its name, kind and both values, for people to read.
    """
    left, right = flat(defaults or {}) | flat(old), flat(new)
    return [
        f"{field} ({kind(field)}): {left.get(field, 'not set')!r} in the run, "
        f"{right.get(field, 'not set')!r} now"
        for field in sorted({*left, *right})
        if _plain(left.get(field)) != _plain(right.get(field)) and kind(field) != RUNTIME
    ]


def _plain(value: Any) -> str:
    return json.dumps(value, default=list)


def flat(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested plain settings by their dotted names, such as "optim.momentum"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{place}{name}.")
        else:
            found[place + name] = value
    return found
