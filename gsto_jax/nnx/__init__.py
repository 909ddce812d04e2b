"""The layers as Flax NNX modules, with the parameters and the results of the linen layers.

A class has the name and the arguments of its linen layer, preceded by the channels of the input:

    gate = gsto_jax.nnx.SelfGated(32, style="paper", rngs=rngs)
    gtm = gsto_jax.nnx.GTM((18, 36, 72), features=144, num_classes=19, rngs=rngs)

`FromLinen` makes an NNX module of a linen layer or network and its variables. `linen_variables`
and `load_linen_variables` convert the variables of any NNX model from and to those of linen.
"""

from gsto_jax.nnx.from_linen import FromLinen
from gsto_jax.nnx.layers import (
    ASPP,
    GFM,
    GTM,
    PPM,
    BatchNorm,
    Conv,
    GateLogits,
    MultiScaleFusion,
    ScaleTransfer,
    SegmentationHead,
    SelfGated,
    StridedGateLogits,
    SupervisedGSTO,
    UnsupervisedGSTO,
)
from gsto_jax.nnx.variables import linen_variables, load_linen_variables

__all__ = [
    "ASPP",
    "GFM",
    "GTM",
    "PPM",
    "BatchNorm",
    "Conv",
    "FromLinen",
    "GateLogits",
    "MultiScaleFusion",
    "ScaleTransfer",
    "SegmentationHead",
    "SelfGated",
    "StridedGateLogits",
    "SupervisedGSTO",
    "UnsupervisedGSTO",
    "linen_variables",
    "load_linen_variables",
]
