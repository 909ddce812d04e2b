"""GSTO (Gated Scale-Transfer Operation) for pixel labeling, in JAX and Flax (arXiv 2005.13363).

The layers fit any Flax model; `HRNet` is GSTO-HRNet and its HRNetV2 baseline, `ContextNet` a
ResNet with PPM or ASPP. Training, evaluation and their tools are modules of their own:
`gsto_jax.train`, `gsto_jax.evaluate`, ...
"""

from gsto_jax.errors import UserError
from gsto_jax.gate import Gated, apply_gates, gated_maps
from gsto_jax.layers import (
    ASPP,
    GFM,
    GTM,
    PPM,
    BatchNorm,
    ContextOutput,
    Conv,
    GateChain,
    GSTOOutput,
    MultiScaleFusion,
    ScaleTransfer,
    SegmentationHead,
    SelfGated,
    SpatialGate,
    SupervisedGSTO,
    UnsupervisedGSTO,
    resize,
)
from gsto_jax.models import (
    PLAIN,
    RESNETS,
    VARIANTS,
    AttentionSpec,
    ContextNet,
    GSTOSpec,
    HRNet,
    HRNetSpec,
    Outputs,
    ResNet,
    ResNetSpec,
)

__version__ = "0.1.0"

__all__ = [
    "ASPP",
    "GFM",
    "GTM",
    "PLAIN",
    "PPM",
    "RESNETS",
    "VARIANTS",
    "AttentionSpec",
    "BatchNorm",
    "ContextNet",
    "ContextOutput",
    "Conv",
    "GSTOOutput",
    "GSTOSpec",
    "GateChain",
    "Gated",
    "HRNet",
    "HRNetSpec",
    "MultiScaleFusion",
    "Outputs",
    "ResNet",
    "ResNetSpec",
    "ScaleTransfer",
    "SegmentationHead",
    "SelfGated",
    "SpatialGate",
    "SupervisedGSTO",
    "UnsupervisedGSTO",
    "UserError",
    "apply_gates",
    "gated_maps",
    "resize",
]
