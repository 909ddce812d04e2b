"""Log-probabilities of upsampled logits by XLA: the reference that defines the numerics."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.ops.resize import resize


def true_log_probability(logits: Array, labels: Array, align_corners: bool = False) -> Array:
    """See `gsto_jax.losses.upsampled.api`."""
    logits = _upsample(logits, labels.shape[1:3], align_corners)
    # A one-hot mask rather than a gather: its gradient is elementwise, not a scatter.
    classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, None, None]
    one_hot = labels.astype(jnp.int32)[..., None] == classes
    return jnp.where(one_hot, jax.nn.log_softmax(logits), 0).sum(-1)


def log_probabilities(logits: Array, size: Sequence[int], align_corners: bool = False) -> Array:
    """Returns the log-probabilities of all classes, `b H W k`, in at least float32.

    Args:
      logits: class scores, `b h w k`.
      size: (H, W) to which they are upsampled.
      align_corners: alignment of the upsampling.
    """
    return jax.nn.log_softmax(_upsample(logits, size, align_corners))


def _upsample(logits: Array, size: Sequence[int], align_corners: bool) -> Array:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return resize(logits, size, "bilinear", align_corners)
