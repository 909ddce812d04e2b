"""Networks, their specifications and their counts."""

from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.counts import Count, count, count_by_part
from gsto_jax.models.hrnet import HRNet, Outputs
from gsto_jax.models.resnet import ResNet
from gsto_jax.models.specs import (
    PLAIN,
    RESNETS,
    VARIANTS,
    AttentionSpec,
    GSTOSpec,
    HRNetSpec,
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
    "Outputs",
    "ResNet",
    "ResNetSpec",
    "count",
    "count_by_part",
]
