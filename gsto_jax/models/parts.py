"""The convolution and the normalisation that all layers of a network share."""

from functools import partial
from typing import Any

from gsto_jax.layers.conv import INITIALIZERS, Conv, ModuleDef
from gsto_jax.layers.norm import BatchNorm


def parts_of(network: Any) -> dict[str, ModuleDef]:
    """`conv` and `norm` of an `HRNet` or a `ContextNet`, as its attributes describe them."""
    return {
        "conv": partial(
            Conv,
            kernel_std=INITIALIZERS[network.init_name],
            param_dtype=network.param_dtype,
        ),
        "norm": partial(
            BatchNorm,
            momentum=network.bn_momentum,
            statistics=network.bn_statistics,
            groups=network.bn_groups,
            param_dtype=network.param_dtype,
        ),
    }
