"""The library's settings: frozen, validated once, then passed around as they are.

`configs/base.py` lists every field with its default and what it means.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gsto_jax.errors import UserError
from gsto_jax.layers.conv import INITIALIZERS
from gsto_jax.models.specs import GSTOSpec, variant


def _require(ok: bool, field: str, value: object, remedy: str) -> None:
    if not ok:
        raise UserError(f"config.{field} is {value!r}: {remedy}")


def _one_of(value: str, field: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, field, value, f"use one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network. See `GSTOSpec` and `HRNet` for the fields."""

    variant: str
    gfm: bool
    self_gate: bool
    gate: str
    gtm: tuple[str, str, str]
    gtm_form: str
    upsample: str
    align_corners: bool
    init: str
    bn_momentum: float
    dtype: str

    def __post_init__(self) -> None:
        """Raises UserError for values that no network has."""
        object.__setattr__(self, "gtm", tuple(self.gtm))
        variant(self.variant)
        _ = self.gsto
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
    def compute_dtype(self) -> Any:
        """The dtype that `dtype` names."""
        return jnp.dtype(self.dtype)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the heads' losses, stages 1 to 4."""

    stage_weights: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        """Raises UserError unless there are four weights, none negative, the last positive."""
        weights = tuple(self.stage_weights)
        object.__setattr__(self, "stage_weights", weights)
        _require(
            len(weights) == 4 and min(weights) >= 0 and weights[-1] > 0,
            "loss.stage_weights",
            weights,
            "give four weights, none negative, the last one positive",
        )

    @property
    def by_stage(self) -> dict[str, float]:
        """Weight by "stage1" to "stage4"."""
        return {f"stage{n}": weight for n, weight in enumerate(self.stage_weights, 1)}


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """SGD and its poly schedule."""

    learning_rate: float
    momentum: float
    weight_decay: float
    poly_power: float
    lr_lag: bool

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        _require(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "use > 0")
        _require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "use [0, 1)")
        _require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "use >= 0")
        _require(self.poly_power > 0, "optim.poly_power", self.poly_power, "use > 0")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, and on how many images a step."""

    batch_size: int
    steps: int
    epochs: int

    def __post_init__(self) -> None:
        """Raises UserError unless exactly one of steps and epochs says how long."""
        _require(self.batch_size >= 1, "train.batch_size", self.batch_size, "use at least 1")
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
    """Evaluation and its pictures."""

    batch_size: int
    absent: str
    pictures: int

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        _require(self.batch_size >= 1, "eval.batch_size", self.batch_size, "use at least 1")
        _one_of(self.absent, "eval.absent", ("exclude", "zero"))
        _require(self.pictures >= -1, "eval.pictures", self.pictures, "use -1 (all), 0 or more")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What changes nothing in the result."""

    log_every: int
    compilation_cache: str

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        _require(self.log_every >= 1, "run.log_every", self.log_every, "use at least 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything but the data, which `data_pipelines.DataConfig` holds."""

    name: str
    seed: int
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    train: TrainConfig
    eval: EvalConfig
    run: RunConfig

    def __post_init__(self) -> None:
        """Raises UserError for a seed that no generator takes."""
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
        problem = "is missing" if name in fields else "is not a setting"
        raise UserError(f"{place}.{name} {problem}")
    built = {
        name: _build(field.type, values[name], f"{place}.{name}")
        if dataclasses.is_dataclass(field.type)
        else values[name]
        for name, field in fields.items()
    }
    return cls(**built)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], place: str = "") -> list[str]:
    """Names, with both values, the settings in which two nested plain configs differ."""
    found = []
    for name in sorted(set(ours) | set(theirs)):
        left, right = (side.get(name, "(not set)") for side in (ours, theirs))
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{place}{name}.")
        elif json.dumps(left, default=list) != json.dumps(right, default=list):
            found.append(f"{place}{name} ({left!r} against {right!r})")
    return found
