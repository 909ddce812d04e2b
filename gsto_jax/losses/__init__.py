"""Training losses on label maps and joint heatmaps."""

from gsto_jax.losses.heatmap import heatmap_error, heatmap_loss, heatmap_supervision
from gsto_jax.losses.pixel import (
    FINAL_STAGE,
    cross_entropy,
    deep_supervision,
    kth_smallest,
    label_weight_sum,
    ohem_cross_entropy,
)

__all__ = [
    "FINAL_STAGE",
    "cross_entropy",
    "deep_supervision",
    "heatmap_error",
    "heatmap_loss",
    "heatmap_supervision",
    "kth_smallest",
    "label_weight_sum",
    "ohem_cross_entropy",
]
