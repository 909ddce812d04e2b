"""Counts the parameters and multiply-accumulates (MACs) of a network by abstract evaluation."""

import functools
from dataclasses import dataclass

import flax.linen as nn
import numpy as np

from gsto_jax.layers.conv import Conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.models.initialize import trace_init
from gsto_jax.types import Size


@dataclass(frozen=True)
class Count:
    """Exact counts of a network or of one of its modules.

    Attributes:
      conv_params: weights and biases of convolutions (the paper's "#Param" for segmentation).
      bn_params: scales and biases of BatchNorm.
      macs: weights times output pixels, summed over the convolutions that run on one image.
    """

    conv_params: int = 0
    bn_params: int = 0
    macs: int = 0

    @property
    def params(self) -> int:
        """Convolution and BN parameters (the paper's "#Param" for pose)."""
        return self.conv_params + self.bn_params

    @property
    def gmacs(self) -> float:
        """MACs / 2^30, which the paper prints as GFLOPs."""
        return self.macs / 2**30

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.conv_params + other.conv_params,
            self.bn_params + other.bn_params,
            self.macs + other.macs,
        )


@dataclass(frozen=True)
class LayerCall:
    """A call of a convolution or BatchNorm.

    Attributes:
      module: path of the layer.
      params: paths of its parameters, such as "head/classifier/kernel".
      count: MACs of the call, and parameters unless an earlier call has counted them.
    """

    module: tuple[str, ...]
    params: tuple[str, ...]
    count: Count


@functools.lru_cache(maxsize=64)  # rows of a sweep share networks, whose tracing takes seconds
def layer_calls(model: nn.Module, size: Size) -> tuple[LayerCall, ...]:
    """Returns the calls of a network for one image of size (h, w), in the order of execution.

    The network runs under `eval_shape`, so nothing is computed.
    """
    calls: list[LayerCall] = []
    counted: set[tuple[str, ...]] = set()

    def intercept(call, args, kwargs, context):  # type: ignore[no-untyped-def]
        out = call(*args, **kwargs)
        module = context.module
        # A fused gate reads its BatchNorm's parameters instead of calling it.
        runs = context.method_name in ("__call__", "norm_parameters")
        if runs and isinstance(module, (Conv, BatchNorm)):
            sizes = {key: int(np.prod(p.shape)) for key, p in module.variables["params"].items()}
            params = 0 if module.path in counted else sum(sizes.values())
            counted.add(module.path)
            if isinstance(module, Conv):
                macs = sizes["kernel"] * out.shape[1] * out.shape[2]
                count = Count(conv_params=params, macs=macs)
            else:
                count = Count(bn_params=params)
            paths = tuple("/".join((*module.path, name)) for name in sizes)
            calls.append(LayerCall(module.path, paths, count))
        return out

    with nn.intercept_methods(intercept):
        trace_init(model, size)
    return tuple(calls)


def count_by_module(model: nn.Module, size: Size) -> dict[str, Count]:
    """Returns the counts of each top-level module of `model`, for one image of size (h, w).

    Modules of a `ContextNet`'s encoder count as top-level modules.
    """
    counts: dict[str, Count] = {}
    for call in layer_calls(model, size):
        name = next(name for name in call.module if name != "encoder")
        counts[name] = counts.get(name, Count()) + call.count
    return counts


def count(model: nn.Module, size: Size) -> Count:
    """Returns the counts of `model` for one image of size (h, w)."""
    return sum((call.count for call in layer_calls(model, size)), Count())
