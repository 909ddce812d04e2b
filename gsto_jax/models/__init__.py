"""Networks, their specifications, and counts of their parameters and MACs."""

from gsto_jax.models.base import Network, Outputs
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.counts import Count, count, count_by_module
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.resnet import ResNet
from gsto_jax.models.specs import (
    PLAIN,
    RESNETS,
    VARIANTS,
    AttentionSpec,
    GSTOSpec,
    HRNetSpec,
    OCRSpec,
    ResNetSpec,
)

__all__ = [
    "PLAIN",
    "RESNETS",
    "VARIANTS",
    "AttentionSpec",
    "ContextNet",
    "Count",
    "GSTOSpec",
    "HRNet",
    "HRNetSpec",
    "Network",
    "OCRSpec",
    "Outputs",
    "ResNet",
    "ResNetSpec",
    "count",
    "count_by_module",
]
