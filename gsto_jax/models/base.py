"""Base class and outputs of the networks."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from gsto_jax.layers.base import Layer
from gsto_jax.layers.conv import INITIALIZERS, Conv, ModuleDef
from gsto_jax.layers.norm import BatchNorm


def rematerialize(module: Any, share: float, index: int, count: int) -> Any:
    """Returns a module class that keeps only its inputs for the backward pass, or the class itself.

    Args:
      module: class of modules that are called with a map or maps, and `train`.
      share: share of the modules to rematerialize, the first ones, 0 to 1.
      index: index of the module in the order of execution.
      count: number of modules.
    """
    # Argument 2, `train`, is static.
    return nn.remat(module, static_argnums=(2,)) if index < round(share * count) else module


@struct.dataclass
class Outputs:
    """Everything a network computes, by name; under `jit` unused outputs cost nothing.

    Attributes:
      logits: class scores or joint heatmaps, at the image's size divided by the output stride,
        rounded up; `b k` of the head "cls".
      stage_logits: logits of the supervised heads, by "stage2", "stage3", ... or "context"
        (of a context module, or the soft object regions of the head "ocr").
      branches: branches `b h_j w_j c_j` after each stage, "stage1" to "stage4", highest resolution
        first. An HRNet with head "v1" has only branch 0 after stage 4.
      gates: gates by name: "stage3/module0/gate2_to1" (GFM, source 2, target 1), "transition2" (GTM
        after stage 2), "context/bin6". In (0, 1), or (0, 2) with the style "doubled" or "residual".
    """

    logits: Float[Array, "b *hw k"]
    stage_logits: dict[str, Float[Array, "b _ _ k"]]
    branches: dict[str, list[Float[Array, "b _ _ _"]]]
    gates: dict[str, Float[Array, "b _ _ 1"]]


class Network(Layer, kw_only=True):
    """Base of `HRNet` and `ContextNet`, with their common attributes.

    Attributes:
      in_channels: channels of the image.
      align_corners: alignment of every bilinear upsampling.
      bn_momentum: fraction of the old running statistics that a step keeps.
      bn_statistics: see `BatchNorm.statistics`.
      bn_groups: see `BatchNorm.groups`.
      frozen_norms: see `BatchNorm.frozen`.
      remat: share of the modules (ResNet: bottlenecks), the first ones, that are rematerialized in
        the backward pass, 0 to 1: less memory, more compute.
      implementation: implementation of the gates (see `gsto_jax.gate.gated_maps`).
      dtype: compute dtype; BN statistics are at least float32.
      param_dtype: dtype of parameters and running statistics.
    """

    in_channels: int = 3
    align_corners: bool = False
    bn_momentum: float | Array = 0.99
    bn_statistics: str = "two_pass"
    bn_groups: int = 1
    frozen_norms: frozenset[str] = frozenset()
    remat: float = 0.0
    implementation: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def layer_factories(self, init_name: str) -> dict[str, ModuleDef]:
        """Returns the keyword arguments `conv` and `norm` of the network's layers."""
        conv = partial(Conv, kernel_std=INITIALIZERS[init_name], param_dtype=self.param_dtype)
        norm = partial(
            BatchNorm,
            momentum=self.bn_momentum,
            statistics=self.bn_statistics,
            groups=self.bn_groups,
            frozen=self.frozen_norms,
            param_dtype=self.param_dtype,
        )
        return {"conv": conv, "norm": norm}
