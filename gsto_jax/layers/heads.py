"""Prediction heads on the branches of a stage."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from gsto_jax.layers.blocks import Composite, ConvBN
from gsto_jax.layers.conv import Conv, project
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.materialize import materialize, relu
from gsto_jax.ops.packing import (
    Packed,
    packed_kernel,
    project_and_upsample,
    store,
    stored,
    unpack,
)
from gsto_jax.ops.resize import resize
from gsto_jax.ops.spatial_sharding import along_space

_LEAST_PACK, _WIDEST = 4, 512
"""Where branches are convolved one by one: packed so much, and in so many lanes at most. Otherwise
the zeros in the kernels cost more than a concatenation does."""


def concatenate_branches(branches: Sequence[Any], align_corners: bool = False) -> Array:
    """Upsamples branches `b h_j w_j c_j` bilinearly to branch 0: a plain map `b h w sum(c_j)`."""
    plain = [unpack(x) for x in branches]
    size = plain[0].shape[1:3]
    return jnp.concatenate([resize(x, size, "bilinear", align_corners) for x in plain], axis=-1)


class BranchConv(Conv):
    """The 1x1 convolution of what `concatenate_branches` returns, without the concatenation.

    A 1x1 convolution commutes with upsampling, and falls into a sum over the branches: each packed
    branch becomes its part of the result in one transposed convolution. The parameters are those of
    `Conv` on the concatenation.
    """

    @nn.compact
    def __call__(self, branches: Sequence[Packed]) -> Packed:  # type: ignore[override]
        """`b h_j w_j c_j`, each half of the one before, -> `b h_0 w_0 features`."""
        branches = [as_floating(x, self.param_dtype) for x in branches]
        first, widths = branches[0], [x.shape[-1] for x in branches]
        starts = [sum(widths[:j]) for j in range(1, len(widths))]
        kernels = jnp.split(self.drawn_kernel(sum(widths))[0, 0], starts)
        placed, _, _ = packed_kernel(kernels[0][None, None], 1, 1, first.factor, first.factor)
        y = project(first.data, placed.astype(first.dtype))
        for j in range(1, len(branches)):
            y += project_and_upsample(branches[j], kernels[j], 2**j).data
        y = self.add_bias(materialize(along_space(y)), sum(widths), first.factor)
        return store(y, first)


class SegmentationHead(Composite):
    """1x1 convolution, BN, ReLU and a 1x1 classifier, both convolutions with bias.

    Attributes:
      num_classes: channels of the logits.
      align_corners: of the upsampling before branches are concatenated.
    """

    num_classes: int
    align_corners: bool = False

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Array:
        """Predicts plain logits `b h w num_classes` from a map or from branches, concatenated."""
        branches: Sequence[Any] = x if isinstance(x, Sequence) else [x]
        width = sum(x.shape[-1] for x in branches)
        norm = self.norm(name="bn")
        own = isinstance(norm, BatchNorm) and getattr(self.conv, "func", self.conv) is Conv
        bias: dict[str, Any] = {"use_bias": True}
        if train and own:
            bias["canceled_bias"] = True
        _, factor = stored(branches[0])
        if own and factor >= _LEAST_PACK and factor * width <= _WIDEST and not self.align_corners:
            parts = getattr(self.conv, "keywords", {})
            y: Any = BranchConv(width, 1, **parts, **bias, name="conv")(branches)
        else:
            y = concatenate_branches(branches, self.align_corners)
            y = self.conv(width, 1, **bias, name="conv")(y)
        classifier = self.conv(self.num_classes, 1, use_bias=True, name="classifier")
        return unpack(classifier(relu(norm(y, train))))


class FCNHead(Composite):
    """3x3 convolution, BN, ReLU and a 1x1 classifier with bias.

    Attributes:
      num_classes: channels of the logits.
      features: channels between the two convolutions.
    """

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """`b h w c` -> logits `b h w num_classes`."""
        parts = self.parts
        x = ConvBN(self.features, 3, **parts, name="cbr")(x, train)
        return self.conv(self.num_classes, 1, use_bias=True, name="classifier")(x)
