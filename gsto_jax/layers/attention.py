"""Channel and spatial attention: the gates compared with GSTO in the paper's Table 3.

The paper prints parameter counts without architectures. These are the usual architectures, and
their counts round to the printed ones; the docstrings name the choice where two would.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsto_jax.gate import apply_channel_gates, apply_gates
from gsto_jax.layers.base import Layer
from gsto_jax.layers.conv import Conv, ModuleDef, default_conv
from gsto_jax.ops.checks import one_of
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap, unpack, unwrap, wrap_like

ATTENTION_POSITIONS = ("block", "layer", "transfer")


class ChannelAttention(Layer):
    """Squeeze-and-excitation: scales each channel by a gate computed from all channel means.

    Mean over the pixels, 1x1 convolution to `channels / reduction`, ReLU, 1x1 convolution back,
    sigmoid. The convolutions have no bias.

    Attributes:
      reduction: reduction ratio of the channels in between, of which at least one remains.
      conv: class or factory of the convolutions.
    """

    reduction: int = 16
    conv: ModuleDef = Conv

    @nn.compact
    def __call__(self, x: Real[FeatureMap, "b h w c"]) -> Float[FeatureMap, "b h w c"]:
        """`b h w c` -> the same shape."""
        x = as_floating(x)
        data, _ = unwrap(x)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        means = unpack(wrap_like(data.mean((1, 2), wide, keepdims=True), x))  # b 1 factor c
        means = means.mean(2, keepdims=True).astype(x.dtype)
        channels = x.shape[-1]
        squeeze = self.conv(max(channels // self.reduction, 1), 1, name="squeeze")
        logits = self.conv(channels, 1, name="excite")(jax.nn.relu(squeeze(means)))
        return apply_channel_gates(x, logits)


class SpatialAttention(Layer):
    """CBAM's spatial attention: scales each pixel by a gate computed from its neighborhood.

    Mean and maximum over the channels, a bias-free convolution of both to one channel, sigmoid.
    There is no BN: the paper's counts leave that open.

    Attributes:
      kernel_size: kernel size of the convolution.
      conv: class or factory of the convolution.
    """

    kernel_size: int = 7
    conv: ModuleDef = field(default_factory=default_conv)

    @nn.compact
    def __call__(self, x: Real[FeatureMap, "b h w c"]) -> Float[FeatureMap, "b h w c"]:
        """`b h w c` -> the same shape."""
        x = as_floating(x)
        data, factor = unwrap(x)
        *b_h_w, _ = data.shape
        pixels = data.reshape(*b_h_w, factor, x.shape[-1])
        wide = jnp.promote_types(x.dtype, jnp.float32)
        mean = pixels.mean(-1, wide, keepdims=True).astype(x.dtype)
        pooled = jnp.concatenate([mean, channel_max(pixels)], axis=-1).reshape(*b_h_w, 2 * factor)
        logits = self.conv(1, self.kernel_size, name="conv")(wrap_like(pooled, x))
        (scaled,), _ = apply_gates(x, logits)
        return scaled


def channel_max(x: Float[Array, "*b c"]) -> Float[Array, "*b 1"]:
    """Returns the maximum over the last axis; its gradient flows to the first maximal entry.

    The gradient of `jnp.max` compares `x` with the maximum again. If the compiler recomputes `x`
    for that with other rounding, no entry is equal and the gradient is 0 / 0.
    """
    one_hot = jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=x.dtype)
    return (x * one_hot).sum(-1, keepdims=True)


def identity_layer(name: str) -> Callable[[FeatureMap], FeatureMap]:
    """Returns the identity: the factory of an absent attention layer."""

    def identity(x: FeatureMap) -> FeatureMap:
        return x

    return identity


ATTENTION: dict[str, ModuleDef] = {
    "none": identity_layer,
    "channel": ChannelAttention,
    "spatial": SpatialAttention,
}
"""Attention layers by config name."""


@dataclass(frozen=True)
class AttentionLayers:
    """Factories of the attention layers at each position in an HRNet, called as `layer(name=...)`.

    Attributes:
      conv: after every convolution of stem, stage 1 and branches, with its BN and ReLU; for the
        last one of a residual unit, before the shortcut is added. Not after shortcut projections.
      unit: after every residual unit of stages 2 to 4.
      branch: after every branch of a module, before the fusion, so shared by all its targets.
      transition: on the map from which a transition creates the new branch.
    """

    conv: ModuleDef = identity_layer
    unit: ModuleDef = identity_layer
    branch: ModuleDef = identity_layer
    transition: ModuleDef = identity_layer


def attention_layers(kind: str, position: str, conv: ModuleDef = Conv) -> AttentionLayers:
    """Returns the layers of a row of the paper's Table 3 (not of its last row, GSTO itself).

    Args:
      kind: a key of `ATTENTION`.
      position: "block": after each branch of a module, which the paper calls a block. "layer":
        after each residual unit of stages 2 to 4 (channel), or each convolution (spatial).
        "transfer": with the scale transfers, before fusions and transitions. The paper's counts
        imply one gate per branch rather than per target, so within a module "transfer" equals
        "block"; only the transitions differ.
      conv: class or factory of the convolutions.

    Raises:
      ValueError: an unknown kind or position.
    """
    one_of(tuple(ATTENTION))("kind", kind)
    one_of(ATTENTION_POSITIONS)("position", position)
    layer = partial(ATTENTION[kind], conv=conv) if kind != "none" else identity_layer
    if position == "block":
        return AttentionLayers(branch=layer)
    if position == "transfer":
        return AttentionLayers(branch=layer, transition=layer)
    return AttentionLayers(unit=layer) if kind == "channel" else AttentionLayers(conv=layer)
