"""Prediction heads on the branches of a stage."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from gsto_jax.layers.blocks import ConvBN
from gsto_jax.layers.branch_conv import BranchConv
from gsto_jax.layers.conv import Conv, ModuleDef, default_conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.checks import COUNT, PARTS, check, flag
from gsto_jax.ops.materialize import relu
from gsto_jax.ops.packing import unpack
from gsto_jax.ops.resize import resize

_LEAST_PACK, _WIDEST = 4, 512
"""Where branches are convolved one by one: packed so much, and in so many lanes at most. Otherwise
the zeros in the kernels cost more than a concatenation does."""


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
      align_corners: of the upsampling before branches are concatenated.
    """

    num_classes: int
    conv: ModuleDef = field(default_factory=default_conv)
    norm: ModuleDef = BatchNorm
    align_corners: bool = False

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError, naming the argument and what it takes."""
        check(self, num_classes=COUNT, align_corners=flag, **PARTS)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Array | Sequence[Array], train: bool = False, packs: Sequence[int] | None = None
    ) -> Array:
        """`b h w c`, or branches `b h_j w_j c_j`, -> logits `b h w num_classes`.

        Args:
          x: a map; if `packs` are given, branches, whose concatenation is meant.
          train: normalise by the batch's statistics.
          packs: how the branches are packed (see `gsto_jax.ops.packing`).
        """
        branches: list[Any] = [x] if packs is None else list(x)
        packs = [1] if packs is None else packs
        width = sum(x.shape[-1] // by for x, by in zip(branches, packs, strict=False))
        norm = self.norm(name="bn")
        own = isinstance(norm, BatchNorm) and getattr(self.conv, "func", self.conv) is Conv
        bias: dict[str, Any] = {"use_bias": True}
        if train and own:
            bias["cancelled_bias"] = True
        packing: tuple[int, ...] = ()
        narrow = packs[0] >= _LEAST_PACK and packs[0] * width <= _WIDEST
        if own and narrow and not self.align_corners:
            parts = getattr(self.conv, "keywords", {})
            y = BranchConv(width, 1, **parts, **bias, name="conv")(branches, packs)
            packing = (packs[0],)
        else:
            y = concatenate_branches(branches, self.align_corners, packs)
            y = self.conv(width, 1, **bias, name="conv")(y)
        classifier = self.conv(self.num_classes, 1, use_bias=True, name="classifier")
        logits = classifier(relu(norm(y, train, *packing)), *packing)
        return unpack(logits, *packing) if packing else logits


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

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError, naming the argument and what it takes."""
        check(self, num_classes=COUNT, features=COUNT, **PARTS)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """`b h w c` -> logits `b h w num_classes`."""
        parts = {"conv": self.conv, "norm": self.norm}
        x = ConvBN(self.features, 3, **parts, name="cbr")(x, train)
        return self.conv(self.num_classes, 1, use_bias=True, name="classifier")(x)
