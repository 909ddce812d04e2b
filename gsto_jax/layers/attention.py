"""The gates that the paper's Table 3 sets beside its own: over channels, and over a neighborhood.

The paper prints their counts and not their forms. Those here are the usual ones, and give its
figures; where two forms count alike, the docstrings say which was taken.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.gate import apply_channel_gates, apply_gates
from gsto_jax.layers.base import Layer
from gsto_jax.layers.conv import Conv, ModuleDef, default_conv
from gsto_jax.ops.checks import one_of
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap, store, stored, unpack

ATTENTION_PLACES = ("block", "layer", "transfer")


class ChannelAttention(Layer):
    """Squeeze-and-excitation: scales each channel by a gate from the means of all.

    Mean over the pixels, a 1x1 convolution to `channels / reduction`, ReLU, a 1x1 convolution back,
    sigmoid; neither has a bias.

    Attributes:
      reduction: of the channels in between, of which there is at least one.
      conv: the convolution to use.
    """

    reduction: int = 16
    conv: ModuleDef = Conv

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """`b h w c` -> the same shape."""
        x = as_floating(x)
        data, _ = stored(x)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        row = unpack(store(data.mean((1, 2), wide, keepdims=True), x))  # b 1 factor c
        means = row.mean(2, keepdims=True).astype(x.dtype)
        channels = x.shape[-1]
        squeeze = self.conv(max(channels // self.reduction, 1), 1, name="squeeze")
        logits = self.conv(channels, 1, name="excite")(jax.nn.relu(squeeze(means)))
        return apply_channel_gates(x, logits)


class SpatialAttention(Layer):
    """Scales each pixel by a gate from its neighborhood: what CBAM calls spatial attention.

    Mean and maximum over the channels, a bias-free convolution of both to one channel, sigmoid.
    Without BN: the paper's counts leave open whether there is one.

    Attributes:
      kernel_size: of the convolution.
      conv: the convolution to use.
    """

    kernel_size: int = 7
    conv: ModuleDef = field(default_factory=default_conv)

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """`b h w c` -> the same shape."""
        x = as_floating(x)
        data, factor = stored(x)
        place = data.shape[:-1]
        pixels = data.reshape(*place, factor, x.shape[-1])
        wide = jnp.promote_types(x.dtype, jnp.float32)
        mean = pixels.mean(-1, wide, keepdims=True).astype(x.dtype)
        both = jnp.concatenate([mean, maximum(pixels)], axis=-1).reshape(*place, 2 * factor)
        logits = self.conv(1, self.kernel_size, name="conv")(store(both, x))
        (scaled,), _ = apply_gates(x, logits)
        return scaled


def maximum(x: Array) -> Array:
    """Maximum over the last axis, which stays; its gradient goes to the first place that has it.

    That of `jnp.max` compares `x` with the maximum again. Where a compiler computes `x` anew for
    that, rounded otherwise, no place has it, and the gradient is 0 / 0.
    """
    place = jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=x.dtype)
    return (x * place).sum(-1, keepdims=True)


def no_attention(name: str) -> Callable[[FeatureMap], FeatureMap]:
    """Stands where there is no attention: leaves a map as it is."""

    def unchanged(x: FeatureMap) -> FeatureMap:
        return x

    return unchanged


ATTENTION: dict[str, ModuleDef] = {
    "none": no_attention,
    "channel": ChannelAttention,
    "spatial": SpatialAttention,
}
"""By config name."""


@dataclass(frozen=True)
class Attention:
    """What follows the parts of an HRNet; each is called as `layer(name=...)(x)`.

    Attributes:
      conv: every convolution of stem, stage 1 and branches, with its BN and ReLU; the last one of a
        residual unit before the shortcut is added. Not the projection of a shortcut.
      unit: every residual unit of stages 2 to 4, its shortcut added.
      branch: every branch of a module, before the fusion, so for all its targets alike.
      transition: the map that a transition makes the new branch of.
    """

    conv: ModuleDef = no_attention
    unit: ModuleDef = no_attention
    branch: ModuleDef = no_attention
    transition: ModuleDef = no_attention


def attention(kind: str, place: str, conv: ModuleDef = Conv) -> Attention:
    """The rows of the paper's Table 3, but for the last one, which is GSTO itself.

    Args:
      kind: a key of `ATTENTION`.
      place: "block": after each branch of a module, which is what the paper calls a block. "layer":
        after each residual unit of stages 2 to 4 (channels), or each convolution (spatial).
        "transfer": combined with the scale transfer: before fusions and transitions. The counts say
        one gate a branch, not one for each target; so within a module that is "block", and what
        differs are the transitions.
      conv: the convolution to use.

    Raises:
      ValueError: an unknown kind or place.
    """
    one_of(tuple(ATTENTION))("attention: kind", kind)
    one_of(ATTENTION_PLACES)("attention: place", place)
    layer = partial(ATTENTION[kind], conv=conv) if kind != "none" else no_attention
    if place == "block":
        return Attention(branch=layer)
    if place == "transfer":
        return Attention(branch=layer, transition=layer)
    return Attention(unit=layer) if kind == "channel" else Attention(conv=layer)
