"""Counts the parameters and multiply-accumulates (MACs) of a network by abstract evaluation."""

import functools
from dataclasses import dataclass

import flax.linen as nn

from gsto_jax.layers.conv import Conv
from gsto_jax.models.tracing import trace_init
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
    for use in trace_init(model, size).uses:
        # A fused gate reads its BatchNorm's parameters instead of calling it.
        if use.method not in ("__call__", "norm_parameters"):
            continue
        params = 0 if use.path in counted else sum(use.sizes.values())
        counted.add(use.path)
        if isinstance(use.layer, Conv) and use.out_size is not None:
            height, width = use.out_size
            count = Count(conv_params=params, macs=use.sizes["kernel"] * height * width)
        else:
            count = Count(bn_params=params)
        paths = tuple("/".join((*use.path, name)) for name in use.sizes)
        calls.append(LayerCall(use.path, paths, count))
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
