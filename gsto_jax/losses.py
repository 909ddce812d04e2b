"""Training losses on logits (paper, section 4.3; released code for the weights)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.layers.resize import resize
from gsto_jax.models.hrnet import Outputs

FINAL = "stage4"


def cross_entropy(
    logits: Array, labels: Array, ignore_label: int = 255, align_corners: bool = False
) -> Array:
    """Mean cross-entropy over the pixels that are not ignored.

    Args:
      logits: `b h w k`; resampled bilinearly to the labels' size. Computed in at least float32.
      labels: `b H W` integers in `0..k-1`; others are left out as `ignore_label` is.
      ignore_label: label of the pixels to leave out.
      align_corners: of the resampling.

    Returns:
      A scalar; 0 where every pixel is ignored.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = resize(logits, labels.shape[1:3], "bilinear", align_corners)
    valid = (labels != ignore_label) & (labels >= 0) & (labels < logits.shape[-1])
    # A comparison instead of a gather: its gradient is elementwise, not a scatter.
    classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, None, None]
    is_target = valid[..., None] & (labels.astype(jnp.int32)[..., None] == classes)
    log_p = jnp.where(is_target, jax.nn.log_softmax(logits), 0)
    return -log_p.sum() / jnp.maximum(valid.sum(), 1)


def deep_supervision(
    outputs: Outputs,
    labels: Array,
    stage_weights: Mapping[str, float],
    ignore_label: int = 255,
    align_corners: bool = False,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum of the losses of all heads: the last one is that of "stage4".

    Args:
      outputs: of the network, in training.
      labels: `b H W`.
      stage_weights: weight by stage, "stage1" to "stage4".
      ignore_label: label of the pixels to leave out.
      align_corners: of the resampling of the logits.

    Returns:
      The sum, and each head's own loss by stage.
    """
    heads = {**outputs.stage_logits, FINAL: outputs.logits}
    losses = {
        stage: cross_entropy(logits, labels, ignore_label, align_corners)
        for stage, logits in heads.items()
    }
    total = jnp.stack([stage_weights[stage] * loss for stage, loss in losses.items()]).sum()
    return total, losses
