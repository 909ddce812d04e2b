"""GSTO (Gated Scale-Transfer Operation) for pixel labeling, in JAX and Flax (arXiv 2005.13363).

The layers work in any Flax model. `HRNet` is GSTO-HRNet and its HRNetV2 baseline; `ContextNet` is a
ResNet with PPM or ASPP. Training and evaluation are in submodules such as `gsto_jax.training.loop`.

Names are imported on first use, so that modules without JAX, such as `gsto_jax.image_files`, load
without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsto_jax.errors import UserError
    from gsto_jax.gate import Gated, apply_gates, gated_maps
    from gsto_jax.hub import create_model, list_models
    from gsto_jax.layers import (
        ASPP,
        GFM,
        GTM,
        PPM,
        BatchNorm,
        ContextOutput,
        Conv,
        GateLogits,
        GSTOOutput,
        MultiScaleFusion,
        ScaleTransfer,
        SegmentationHead,
        SelfGated,
        StridedGateLogits,
        SupervisedGSTO,
        UnsupervisedGSTO,
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
    from gsto_jax.ops.resize import resize

__version__ = "0.2.0"

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
    "GateLogits",
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
    "StridedGateLogits",
    "SupervisedGSTO",
    "UnsupervisedGSTO",
    "UserError",
    "apply_gates",
    "create_model",
    "gated_maps",
    "list_models",
    "resize",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports a public name, or raises AttributeError."""
        if name in __all__:
            for module in ("errors", "gate", "layers", "models", "hub"):
                value = getattr(import_module(f"{__name__}.{module}"), name, None)
                if value is not None:
                    globals()[name] = value
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
