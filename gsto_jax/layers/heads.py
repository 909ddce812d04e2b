"""Prediction heads on the branches of a stage."""

from collections.abc import Sequence
from dataclasses import field

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from gsto_jax.layers.blocks import ConvBN
from gsto_jax.layers.conv import Conv, ModuleDef, default_conv
from gsto_jax.layers.materialize import relu
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.layers.resize import resize
from gsto_jax.ops.packing import unpack


def concatenate_branches(
    branches: Sequence[Array], align_corners: bool = False, packs: Sequence[int] | None = None
) -> Array:
    """Upsamples all branches bilinearly to branch 0 and concatenates: `b h w sum(c_j)`.

    Args:
      branches: `b h_j w_j c_j`.
      align_corners: of the upsampling.
      packs: how they are packed; None for not at all. The result is plain.
    """
    packs = packs or [1] * len(branches)
    branches = [unpack(x, by) for x, by in zip(branches, packs, strict=False)]
    size = branches[0].shape[1:3]
    return jnp.concatenate([resize(x, size, "bilinear", align_corners) for x in branches], axis=-1)


class SegmentationHead(nn.Module):
    """1x1 convolution, BN, ReLU and a 1x1 classifier, both convolutions with bias.

    Attributes:
      num_classes: channels of the logits.
      conv: the convolution to use.
      norm: the normalisation to use.
    """

    num_classes: int
    conv: ModuleDef = field(default_factory=default_conv)
    norm: ModuleDef = BatchNorm

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """`b h w c` -> logits `b h w num_classes`."""
        norm = self.norm(name="bn")
        own = isinstance(norm, BatchNorm) and getattr(self.conv, "func", self.conv) is Conv
        cancelled = {"cancelled_bias": True} if train and own else {}
        conv = self.conv(x.shape[-1], 1, use_bias=True, **cancelled, name="conv")
        x = relu(norm(conv(x), train))
        return self.conv(self.num_classes, 1, use_bias=True, name="classifier")(x)


class FCNHead(nn.Module):
    """3x3 convolution, BN, ReLU and a 1x1 classifier with bias.

    Attributes:
      num_classes: channels of the logits.
      features: channels between the two convolutions.
      conv: the convolution to use.
      norm: the normalisation to use.
    """

    num_classes: int
    features: int
    conv: ModuleDef = Conv
    norm: ModuleDef = BatchNorm

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """`b h w c` -> logits `b h w num_classes`."""
        parts = {"conv": self.conv, "norm": self.norm}
        x = ConvBN(self.features, 3, **parts, name="cbr")(x, train)
        return self.conv(self.num_classes, 1, use_bias=True, name="classifier")(x)
