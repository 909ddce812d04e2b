"""Scale transfer, plain (ST) and gated (GSTO, section 3.1 of the paper)."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float, Real

from gsto_jax.gate import apply_gates
from gsto_jax.layers.blocks import Composite, StridedConvChain
from gsto_jax.layers.gates import GateLogits, SelfGated, get_style
from gsto_jax.ops.checks import COUNT, check_map, each, one_of_or_callable, optional
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.resize import resize

RESAMPLING = ("bilinear", "nearest", "avg_pool", "strided_conv")


class ScaleTransfer(Composite):
    """Plain scale transfer ST: a 1x1 convolution if channels change, then resampling (eq. 1, 2).

    Attributes:
      features: output channels; None keeps the input's, without a convolution.
      resample: "bilinear" or "nearest" (up), "avg_pool" or "strided_conv" (down), or a callable
        that resamples a map. "strided_conv" is a chain of 3x3 stride-2 convolutions with BN and, on
        all but the last, ReLU.
      factor: ratio of the two resolutions, at least 1. Downsampled sizes round up.
      size: target height and width for "bilinear" and "nearest", instead of `factor`.
      align_corners: alignment of "bilinear".

    Example:
      >>> up = ScaleTransfer(features=64, resample="bilinear", factor=2)
      >>> up.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 128)))[0].shape
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
    def __call__(
        self, x: Real[Array, "b h w c"], train: bool = False
    ) -> Real[Array, "b _ _ features"]:
        """Transfers `b h w c` to another scale, in the dtype of `x`; integers become float32.

        "nearest" without a convolution only copies, and keeps integers.

        Raises:
          ValueError: `x` is not `b h w c`, or `resample` cannot realize `factor` or `size`.
        """
        if self.features is not None and self.features != x.shape[-1]:
            x = self.conv(self.features, 1, name="project")(x)
        if callable(self.resample):
            return self.resample(x)
        if self.resample in ("bilinear", "nearest"):
            size = self.size or (x.shape[1] * self.factor, x.shape[2] * self.factor)
            return resize(x, size, self.resample, self.align_corners)
        check_map(x, f"resample={self.resample!r}")
        if self.size is not None:
            raise ValueError(
                f"size must be None with resample={self.resample!r}; got {self.size}. Use factor"
            )
        if self.resample == "avg_pool":
            x, window = as_floating(x), (self.factor, self.factor)
            pooled = nn.avg_pool(x, window, window, padding="SAME", count_include_pad=False)
            return pooled.astype(x.dtype)  # linen divides in the widest enabled float dtype
        if self.factor.bit_count() != 1:
            raise ValueError(
                f"factor must be a power of two with resample='strided_conv'; got {self.factor}"
            )
        halvings = self.factor.bit_length() - 1
        return StridedConvChain(x.shape[-1], halvings, **self.factories, name="down")(x, train)


class GSTOOutput(NamedTuple):
    """Output of a gated scale transfer.

    Attributes:
      features: the transferred map.
      logits: class logits of a supervised gate, else None.
      gate: the gate, if there is one; in (0, 1), or (0, 2) for the styles of that range.
    """

    features: Any
    logits: Float[Array, "b _ _ k"] | None
    gate: Float[Array, "b h w 1"] | None


class UnsupervisedGSTO(Composite):
    """Gated scale transfer whose gate is learned from the task alone (eq. 3, 4).

    Attributes:
      transfer: the scale transfer to gate: a `ScaleTransfer`, another module, or a function of the
        gated map. Modules whose call has an argument `train` are called as `transfer(x, train)`.
      style: style of the gate, one of `GATE_STYLES`; see `GateLogits`.
      implementation: implementation of the gate (see `gsto_jax.gate.gated_maps`).

    Example:
      >>> down = UnsupervisedGSTO(ScaleTransfer(features=64, resample="avg_pool", factor=2))
      >>> x = jnp.ones((1, 8, 8, 32))
      >>> output, variables = down.init_with_output(jax.random.key(0), x)
      >>> output.features.shape, output.gate.shape
      ((1, 4, 4, 64), (1, 8, 8, 1))
    """

    transfer: Callable[..., Array]
    style: str = "released"
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Real[Array, "b h w c"], train: bool = False) -> GSTOOutput:
        """Gates `b h w c` and transfers it to another scale."""
        gate = SelfGated(self.style, 1, self.implementation, **self.factories, name="gate")
        gated = gate(x, train)
        return GSTOOutput(call_transfer(self.transfer, gated.maps[0], train), None, gated.gates)


class SupervisedGSTO(Composite):
    """Gated scale transfer whose gate reads its own class predictions (eq. 3, 5, 6).

    `P = conv1x1(F)` predicts `num_classes` classes, and the gate is computed from `P`. Supervise
    the gate by a loss on the logits `P`, upsampled to the labels.

    Attributes:
      transfer: the scale transfer to gate; see `UnsupervisedGSTO`.
      num_classes: channels of the prediction.
      style: style of the gate, one of `GATE_STYLES`; see `GateLogits`.

    Example:
      >>> gsto = SupervisedGSTO(ScaleTransfer(features=64, factor=2), num_classes=19)
      >>> x = jnp.ones((1, 8, 8, 32))
      >>> (y, class_logits, gate), variables = gsto.init_with_output(jax.random.key(0), x)
    """

    transfer: Callable[..., Array]
    num_classes: int
    style: str = "released"

    @nn.compact
    def __call__(self, x: Real[Array, "b h w c"], train: bool = False) -> GSTOOutput:
        """Gates `b h w c` and transfers it to another scale; also returns the class logits."""
        logits = self.conv(self.num_classes, 1, use_bias=True, name="predictor")(x)
        gate_logits = GateLogits(self.style, **self.factories, name="gate")
        maximum = get_style(self.style).maximum
        (gated,), gates = apply_gates(x, gate_logits(logits, train), maximum)
        return GSTOOutput(call_transfer(self.transfer, gated, train), logits, gates)


def call_transfer(transfer: Callable[..., Array], x: Array, train: bool) -> Array:
    """Calls a scale transfer, with `train` if it is a module whose call has that argument."""
    if isinstance(transfer, nn.Module):
        parameters = inspect.signature(transfer.__call__).parameters
        return transfer(x, train) if "train" in parameters else transfer(x)
    return transfer(x)
