"""Prediction heads on one or all branches of a stage."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsto_jax.layers.blocks import Composite, ConvBN
from gsto_jax.layers.conv import Conv, conv_1x1
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.materialize import materialize, relu
from gsto_jax.ops.packing import (
    FeatureMap,
    Packed,
    packed_kernel,
    project_and_upsample,
    unpack,
    unwrap,
    wrap_like,
)
from gsto_jax.ops.resize import resize
from gsto_jax.ops.spatial_sharding import shard_height

# When to convolve branches separately: with a smaller packing factor of branch 0, or more lanes,
# the zeros in the packed kernels cost more than a concatenation.
_MIN_PACK_FACTOR, _MAX_LANES = 4, 512


def concatenate_branches(
    branches: Sequence[Real[FeatureMap, "b _ _ _"]], align_corners: bool = False
) -> Float[Array, "b h w c"]:
    """Upsamples branches `b h_j w_j c_j` bilinearly to branch 0: a plain map `b h_0 w_0 sum(c)`."""
    plain = [unpack(x) for x in branches]
    size = plain[0].shape[1:3]
    return jnp.concatenate([resize(x, size, "bilinear", align_corners) for x in plain], axis=-1)


class BranchConv(Conv):
    """1x1 convolution of `concatenate_branches`, without the concatenation.

    A 1x1 convolution commutes with upsampling and is a sum over the branches, so each packed branch
    is convolved and upsampled by one transposed convolution. The parameters are those of `Conv` on
    the concatenation.
    """

    @nn.compact
    def __call__(self, branches: Sequence[Packed]) -> Packed:  # type: ignore[override]
        """`b h_j w_j c_j`, each half the size of the previous one -> `b h_0 w_0 features`."""
        branches = [as_floating(x, self.param_dtype) for x in branches]
        first, widths = branches[0], [x.shape[-1] for x in branches]
        channels = sum(widths)
        starts = [sum(widths[:j]) for j in range(1, len(widths))]
        kernels = jnp.split(self.kernel_param(channels)[0, 0], starts)
        kernel, _, _ = packed_kernel(kernels[0][None, None], 1, 1, first.factor, first.factor)
        y = conv_1x1(first.data, kernel.astype(first.dtype))
        for j in range(1, len(branches)):
            y += project_and_upsample(branches[j], kernels[j], 2**j).data
        y = self.add_bias(materialize(shard_height(y)), channels, first.factor)
        return wrap_like(y, first)


class SegmentationHead(Composite):
    """1x1 convolution, BN, ReLU and a 1x1 classifier; both convolutions have a bias.

    Attributes:
      num_classes: channels of the logits.
      align_corners: alignment of the upsampling before branches are concatenated.
    """

    num_classes: int
    align_corners: bool = False

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Float[Array, "b h w k"]:
        """Predicts unpacked logits `b h w num_classes` from a map or a sequence of branches."""
        branches: Sequence[Any] = x if isinstance(x, Sequence) else [x]
        width = sum(x.shape[-1] for x in branches)
        norm = self.norm(name="bn")
        default_layers = (
            isinstance(norm, BatchNorm) and getattr(self.conv, "func", self.conv) is Conv
        )
        kwargs: dict[str, Any] = {"use_bias": True, "name": "conv"}
        if train and default_layers and not norm.is_frozen:
            kwargs["canceled_bias"] = True
        _, factor = unwrap(branches[0])
        fits = factor >= _MIN_PACK_FACTOR and factor * width <= _MAX_LANES
        if default_layers and fits and not self.align_corners:
            conv_kwargs = getattr(self.conv, "keywords", {})
            y: Any = BranchConv(width, 1, **conv_kwargs, **kwargs)(branches)
        else:
            concatenated = concatenate_branches(branches, self.align_corners)
            y = self.conv(width, 1, **kwargs)(concatenated)
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
    def __call__(self, x: Real[Array, "b h w c"], train: bool = False) -> Float[Array, "b h w k"]:
        """`b h w c` -> logits `b h w num_classes`."""
        x = ConvBN(self.features, 3, **self.factories, name="cbr")(x, train)
        return self.conv(self.num_classes, 1, use_bias=True, name="classifier")(x)
