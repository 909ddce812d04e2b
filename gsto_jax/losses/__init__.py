"""Training losses on label maps, joint heatmaps and classes of images."""

from gsto_jax.losses.classification import classification_loss, classification_supervision
from gsto_jax.losses.heatmap import heatmap_error, heatmap_loss, heatmap_supervision
from gsto_jax.losses.labels import label_weight_sum
from gsto_jax.losses.pixel import cross_entropy, focal_loss, kth_smallest, ohem_cross_entropy
from gsto_jax.losses.region import dice_loss, lovasz_softmax
from gsto_jax.losses.supervision import FINAL_STAGE, MicrobatchWeights, deep_supervision

__all__ = [
    "FINAL_STAGE",
    "MicrobatchWeights",
    "classification_loss",
    "classification_supervision",
    "cross_entropy",
    "deep_supervision",
    "dice_loss",
    "focal_loss",
    "heatmap_error",
    "heatmap_loss",
    "heatmap_supervision",
    "kth_smallest",
    "label_weight_sum",
    "lovasz_softmax",
    "ohem_cross_entropy",
]
