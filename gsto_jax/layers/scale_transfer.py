"""Scale transfer, plain and gated: the operation the paper is named after (section 3.1)."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jax import Array

from gsto_jax.gate import apply_gates
from gsto_jax.layers.blocks import Composite, DownChain
from gsto_jax.layers.gates import SelfGated, SpatialGate
from gsto_jax.ops.checks import (
    COUNT,
    check_rank,
    each,
    one_of_or_callable,
    optional,
)
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.resize import resize

RESAMPLING = ("bilinear", "nearest", "avg_pool", "strided_conv")


class ScaleTransfer(Composite):
    """Plain scale transfer ST: 1x1 convolution if channels change, then resampling (eq. 1, 2).

    Attributes:
      features: target channels; None keeps those of the input, without a convolution.
      resample: "bilinear" or "nearest" (up), "avg_pool" or "strided_conv" (down), or a callable
        that maps `b h w c` to the resampled map. "strided_conv" is a chain of 3x3 stride-2
        convolutions with BN and, on all but the last, ReLU.
      factor: ratio of the two resolutions, at least 1. Going down, odd sizes round up.
      size: target height and width for "bilinear" and "nearest", in place of `factor`.
      align_corners: of "bilinear".

    Example:
      >>> up = ScaleTransfer(features=64, resample="bilinear", factor=2)
      >>> up.init_with_output(key, jnp.ones((1, 8, 8, 128)))[0].shape
      (1, 16, 16, 64)
    """

    rules: ClassVar = {
        "features": optional(COUNT),
        "resample": one_of_or_callable(RESAMPLING),
        "size": optional(each(COUNT, 2)),
    }

    features: int | None = None
    resample: str | Callable[[Array], Array] = "bilinear"
    factor: int = 2
    size: Sequence[int] | None = None
    align_corners: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """`b h w c` -> `b H W features`, in the dtype of `x`; integers become float32.

        "nearest" without a convolution keeps integers, since it only copies them.

        Raises:
          ValueError: `x` is no map `b h w c`, or the resampling cannot do the factor.
        """
        if self.features is not None and self.features != x.shape[-1]:
            x = self.conv(self.features, 1, name="project")(x)
        if callable(self.resample):
            return self.resample(x)
        if self.resample in ("bilinear", "nearest"):
            size = self.size or (x.shape[1] * self.factor, x.shape[2] * self.factor)
            return resize(x, size, self.resample, self.align_corners)
        check_rank(x, f"'{self.resample}'")
        if self.size is not None:
            raise ValueError(f"'{self.resample}' takes a factor, not a size")
        if self.resample == "avg_pool":
            x, window = as_floating(x), (self.factor, self.factor)
            pooled = nn.avg_pool(x, window, window, padding="SAME", count_include_pad=False)
            return pooled.astype(x.dtype)  # linen divides by counts in the widest float there is
        return self._strided(x, train)

    def _strided(self, x: Array, train: bool) -> Array:
        halvings = self.factor.bit_length() - 1
        if self.factor != 2**halvings:
            raise ValueError(f"'strided_conv' halves: factor {self.factor} is not a power of two")
        parts = {**self.parts, "name": "down"}
        return DownChain(x.shape[-1], halvings, **parts)(x, train)


class GSTOOutput(NamedTuple):
    """The transferred map, the class logits of a supervised gate (else None), and the gate."""

    features: Any
    logits: Array | None
    gate: Array | None


class UnsupervisedGSTO(Composite):
    """Gated scale transfer whose gate learns from the task alone (eq. 3, 4).

    Attributes:
      transfer: what to gate: a `ScaleTransfer`, any other module, or a plain function of the gated
        map. Modules whose call takes an argument `train` are called as `transfer(x, train)`.
      form: of the gate, "released" or "paper".
      implementation: of the gate (`gsto_jax.gate.gated_maps`).

    Example:
      >>> down = UnsupervisedGSTO(ScaleTransfer(features=64, resample="avg_pool", factor=2))
      >>> y = down.apply(variables, x).features
    """

    transfer: Callable[..., Array]
    form: str = "released"
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> GSTOOutput:
        """`b h w c` -> what the transfer makes of the gated map, and the gate `b h w 1`."""
        gate = SelfGated(self.form, 1, self.implementation, **self.parts, name="gate")
        found = gate(x, train)
        return GSTOOutput(run_transfer(self.transfer, found.maps[0], train), None, found.gates)


class SupervisedGSTO(Composite):
    """Gated scale transfer whose gate reads class predictions of its own (eq. 3, 5, 6).

    `P = conv1x1(F)` predicts `num_classes` classes; the gate is computed from `P`. Give the logits
    `P`, upsampled to the labels, a loss of their own: that is the supervision.

    Attributes:
      transfer: what to gate, as in `UnsupervisedGSTO`.
      num_classes: channels of the prediction.
      form: of the gate, "released" or "paper".

    Example:
      >>> gsto = SupervisedGSTO(ScaleTransfer(features=64, factor=2), num_classes=19)
      >>> y, class_logits, gate = gsto.apply(variables, x)
    """

    transfer: Callable[..., Array]
    num_classes: int
    form: str = "released"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> GSTOOutput:
        """`b h w c` -> the transferred gated map, class logits `b h w num_classes`, the gate."""
        logits = self.conv(self.num_classes, 1, use_bias=True, name="predictor")(x)
        gate = SpatialGate(self.form, **self.parts, name="gate")
        (gated,), gates = apply_gates(x, gate(logits, train))
        return GSTOOutput(run_transfer(self.transfer, gated, train), logits, gates)


def run_transfer(transfer: Callable[..., Array], x: Array, train: bool) -> Array:
    """Calls a transfer, with `train` if it is a module that takes it."""
    if isinstance(transfer, nn.Module):
        takes = inspect.signature(transfer.__call__).parameters
        return transfer(x, train) if "train" in takes else transfer(x)
    return transfer(x)
