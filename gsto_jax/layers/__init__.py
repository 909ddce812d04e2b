"""Flax layers: convolution, BN, gates, scale transfer, fusion, transitions, context modules."""

from gsto_jax.layers.attention import ChannelAttention, SpatialAttention
from gsto_jax.layers.classification import ClassificationHead
from gsto_jax.layers.context import ASPP, PPM, BranchGates, ContextOutput
from gsto_jax.layers.conv import INITIALIZERS, Conv
from gsto_jax.layers.fusion import GFM, MultiScaleFusion
from gsto_jax.layers.gates import GateLogits, SelfGated, StridedGateLogits
from gsto_jax.layers.gtm import GTM
from gsto_jax.layers.heads import FCNHead, SegmentationHead
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.layers.ocr import ObjectContext, OCRHead
from gsto_jax.layers.scale_transfer import (
    GSTOOutput,
    ScaleTransfer,
    SupervisedGSTO,
    UnsupervisedGSTO,
)
from gsto_jax.ops.resize import adaptive_average_pool, resize

__all__ = [
    "ASPP",
    "GFM",
    "GTM",
    "INITIALIZERS",
    "PPM",
    "BatchNorm",
    "BranchGates",
    "ChannelAttention",
    "ClassificationHead",
    "ContextOutput",
    "Conv",
    "FCNHead",
    "GSTOOutput",
    "GateLogits",
    "MultiScaleFusion",
    "OCRHead",
    "ObjectContext",
    "ScaleTransfer",
    "SegmentationHead",
    "SelfGated",
    "SpatialAttention",
    "StridedGateLogits",
    "SupervisedGSTO",
    "UnsupervisedGSTO",
    "adaptive_average_pool",
    "resize",
]
