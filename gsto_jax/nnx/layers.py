"""The layers of `gsto_jax.layers` as NNX modules."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from flax import nnx
from jaxtyping import Array, Real

from gsto_jax import layers
from gsto_jax.gate import apply_gates
from gsto_jax.layers import GSTOOutput
from gsto_jax.layers.gates import get_style
from gsto_jax.nnx.from_linen import ConvertedLayer, FromLinen, initial_layer_variables, takes_train
from gsto_jax.ops.checks import COUNT, each


def _one_map_or_branches(name: str, channels: Any) -> None:
    (each(COUNT) if isinstance(channels, Sequence) else COUNT)(name, channels)


class Conv(ConvertedLayer):
    """NNX form of `gsto_jax.Conv`; arguments: channels of the input, then those of linen."""

    linen_class = layers.Conv


class BatchNorm(ConvertedLayer):
    """NNX form of `gsto_jax.BatchNorm`; arguments: channels of the input, then those of linen."""

    linen_class = layers.BatchNorm


class GateLogits(ConvertedLayer):
    """NNX form of `gsto_jax.GateLogits`; arguments: channels of the input, then those of linen."""

    linen_class = layers.GateLogits


class SelfGated(ConvertedLayer):
    """NNX form of `gsto_jax.SelfGated`; arguments: channels of the input, then those of linen.

    Example:
      >>> gate = SelfGated(32, num_gates=2, rngs=nnx.Rngs(0))
      >>> first, second = gate(jnp.ones((1, 8, 8, 32))).maps
    """

    linen_class = layers.SelfGated


class StridedGateLogits(ConvertedLayer):
    """NNX form of `gsto_jax.StridedGateLogits`; arguments: channels, then those of linen."""

    linen_class = layers.StridedGateLogits


class ScaleTransfer(ConvertedLayer):
    """NNX form of `gsto_jax.ScaleTransfer`; arguments: channels of the input, then linen's."""

    linen_class = layers.ScaleTransfer


class MultiScaleFusion(ConvertedLayer):
    """NNX form of `gsto_jax.MultiScaleFusion`; arguments: channels of branches, then linen's."""

    linen_class = layers.MultiScaleFusion
    channels_rule = staticmethod(each(COUNT))


class GFM(MultiScaleFusion):
    """NNX form of `gsto_jax.GFM`; arguments: channels of the branches, then those of linen.

    Example:
      >>> gfm = GFM((18, 36, 72), rngs=nnx.Rngs(0))
      >>> fused, gates = gfm([jnp.ones((1, 16 >> j, 16 >> j, 18 << j)) for j in range(3)])
    """

    linen_class = layers.GFM


class GTM(ConvertedLayer):
    """NNX form of `gsto_jax.GTM`; arguments: channels of the branches, then those of linen.

    Example:
      >>> gtm = GTM((18, 36, 72), features=144, num_classes=19, rngs=nnx.Rngs(0))
      >>> output = gtm([jnp.ones((1, 16 >> j, 16 >> j, 18 << j)) for j in range(3)])
      >>> output.features.shape, output.logits.shape
      ((1, 2, 2, 144), (1, 16, 16, 19))
    """

    linen_class = layers.GTM
    channels_rule = staticmethod(each(COUNT))


class SegmentationHead(ConvertedLayer):
    """NNX form of `gsto_jax.SegmentationHead`; channels are those of a map or of branches."""

    linen_class = layers.SegmentationHead
    channels_rule = staticmethod(_one_map_or_branches)


class PPM(ConvertedLayer):
    """NNX form of `gsto_jax.PPM`; arguments: channels of the input, then those of linen."""

    linen_class = layers.PPM


class ASPP(ConvertedLayer):
    """NNX form of `gsto_jax.ASPP`; arguments: channels of the input, then those of linen."""

    linen_class = layers.ASPP


class UnsupervisedGSTO(nnx.Module):
    """NNX form of `gsto_jax.UnsupervisedGSTO`: gated scale transfer, learned from the task alone.

    Example:
      >>> up = nnx.ConvTranspose(32, 16, (2, 2), strides=2, rngs=rngs)
      >>> gsto = UnsupervisedGSTO(32, up, rngs=rngs)
      >>> features = gsto(jnp.ones((1, 8, 8, 32))).features  # 1 16 16 16
    """

    def __init__(
        self, channels: int, transfer: Callable[..., Array], *, rngs: nnx.Rngs, **kwargs: Any
    ) -> None:
        """Initializes the gate.

        Args:
          channels: channels of the input.
          transfer: the scale transfer to gate: an NNX module, or a function of the gated map.
            Modules whose call has an argument `train` are called as `transfer(x, train)`.
          rngs: random number generators.
          **kwargs: further arguments of `SelfGated`: `style`, `implementation`, `conv`, `norm`.

        Raises:
          TypeError: `transfer` is a linen module, or an invalid argument.
          ValueError: an invalid argument.
        """
        _check_transfer(transfer)
        self.gate = SelfGated(channels, rngs=rngs, **kwargs)
        self.transfer = transfer

    def __call__(self, x: Real[Array, "b h w c"], train: bool | None = None) -> GSTOOutput:
        """Gates `b h w c` and transfers it to another scale; `train` as in `FromLinen`."""
        gated = self.gate(x, train)
        features = _call_transfer(self.transfer, gated.maps[0], self.gate.is_training(train))
        return GSTOOutput(features, None, gated.gates)


class SupervisedGSTO(nnx.Module):
    """NNX form of `gsto_jax.SupervisedGSTO`: gated scale transfer by its own class predictions."""

    def __init__(
        self,
        channels: int,
        transfer: Callable[..., Array],
        num_classes: int,
        *,
        style: str = "released",
        rngs: nnx.Rngs,
        **kwargs: Any,
    ) -> None:
        """Initializes the predictor and the gate.

        Args:
          channels: channels of the input.
          transfer: the scale transfer to gate; see `UnsupervisedGSTO`.
          num_classes: channels of the prediction.
          style: style of the gate; see `gsto_jax.GateLogits`.
          rngs: random number generators.
          **kwargs: `conv` and `norm` of `gsto_jax.SupervisedGSTO`.

        Raises:
          TypeError: `transfer` is a linen module, or an invalid argument.
          ValueError: an invalid argument.
        """
        _check_transfer(transfer)
        COUNT("SupervisedGSTO: num_classes", num_classes)
        predictor = kwargs.get("conv", layers.Conv)(num_classes, 1, use_bias=True)
        self.predictor = FromLinen(predictor, initial_layer_variables(predictor, channels, rngs))
        self.gate = GateLogits(num_classes, style, rngs=rngs, **kwargs)
        self.gate_maximum = get_style(style).maximum
        self.transfer = transfer

    def __call__(self, x: Real[Array, "b h w c"], train: bool | None = None) -> GSTOOutput:
        """Gates `b h w c` and transfers it; also returns the class logits."""
        logits = self.predictor(x)
        (gated,), gates = apply_gates(x, self.gate(logits, train), self.gate_maximum)
        features = _call_transfer(self.transfer, gated, self.gate.is_training(train))
        return GSTOOutput(features, logits, gates)


def _check_transfer(transfer: Callable[..., Array]) -> None:
    if isinstance(transfer, nn.Module):
        raise TypeError(
            "transfer must be an NNX module or a function; got the linen module "
            f"{type(transfer).__name__}. Use gsto_jax.nnx or flax.nnx.bridge.ToNNX"
        )


def _call_transfer(transfer: Callable[..., Array], x: Array, train: bool) -> Array:
    """Calls a scale transfer, with `train` if it is a module whose call has that argument."""
    if isinstance(transfer, nnx.Module) and takes_train(transfer):
        return transfer(x, train)
    return transfer(x)
