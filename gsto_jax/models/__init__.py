"""Networks, their specifications and their counts."""

from gsto_jax.models.counts import Count, count, count_by_part
from gsto_jax.models.hrnet import HRNet, Outputs
from gsto_jax.models.specs import PLAIN, VARIANTS, AttentionSpec, GSTOSpec, HRNetSpec

__all__ = [
    "PLAIN",
    "VARIANTS",
    "AttentionSpec",
    "Count",
    "GSTOSpec",
    "HRNet",
    "HRNetSpec",
    "Outputs",
    "count",
    "count_by_part",
]
