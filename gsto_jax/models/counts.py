"""Parameters and multiply-accumulates of a network, counted by walking it abstractly."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax.layers.conv import Conv
from gsto_jax.layers.norm import BatchNorm


@dataclass(frozen=True)
class Count:
    """Exact integers for a network or a part of it.

    Attributes:
      conv_params: weights and biases of convolutions (the paper's segmentation "#Param").
      bn_params: scales and biases of BatchNorm.
      macs: weight count times output pixels of every convolution that runs, one image.
    """

    conv_params: int = 0
    bn_params: int = 0
    macs: int = 0

    @property
    def params(self) -> int:
        """Convolution and BN parameters (the paper's pose "#Param")."""
        return self.conv_params + self.bn_params

    @property
    def gmacs(self) -> float:
        """MACs / 2^30: what the paper prints as GFLOPs."""
        return self.macs / 2**30

    def __add__(self, other: "Count") -> "Count":
        """Sums field by field."""
        return Count(
            self.conv_params + other.conv_params,
            self.bn_params + other.bn_params,
            self.macs + other.macs,
        )


def count_by_part(model: nn.Module, size: tuple[int, int]) -> dict[str, Count]:
    """Counts each top-level part of `model` on one `size[0] x size[1]` RGB image.

    The parts of an encoder count as parts of the whole.

    Nothing is computed: the real network runs under `eval_shape`, and every convolution and
    normalisation that it calls is counted. `sum(parts.values(), Count())` is the whole.
    """
    parts: dict[str, Count] = {}
    seen: set[tuple[str, ...]] = set()

    def walk(call, args, kwargs, context):  # type: ignore[no-untyped-def]
        out = call(*args, **kwargs)
        module = context.module
        # A fused gate reads its BatchNorm's parameters in place of calling it.
        runs = context.method_name in ("__call__", "norm_parameters")
        if runs and isinstance(module, (Conv, BatchNorm)):
            sizes = {key: int(np.prod(p.shape)) for key, p in module.variables["params"].items()}
            params = 0 if module.path in seen else sum(sizes.values())
            seen.add(module.path)
            if isinstance(module, Conv):
                count = Count(
                    conv_params=params, macs=sizes["kernel"] * out.shape[1] * out.shape[2]
                )
            else:
                count = Count(bn_params=params)
            part = next(name for name in module.path if name != "encoder")
            parts[part] = parts.get(part, Count()) + count
        return out

    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with nn.intercept_methods(walk):
        jax.eval_shape(model.init, jax.random.key(0), image)
    return parts


def count(model: nn.Module, size: tuple[int, int]) -> Count:
    """Counts the whole of `model` on one `size[0] x size[1]` RGB image."""
    return sum(count_by_part(model, size).values(), Count())
