"""Log-probability of each pixel's true class by XLA: the reference that defines the numerics."""

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.ops.resize import resize


def true_log_probability(logits: Array, labels: Array, align_corners: bool = False) -> Array:
    """See `gsto_jax.losses.upsampled.api`."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = resize(logits, labels.shape[1:3], "bilinear", align_corners)
    # A one-hot mask rather than a gather: its gradient is elementwise, not a scatter.
    classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, None, None]
    one_hot = labels.astype(jnp.int32)[..., None] == classes
    return jnp.where(one_hot, jax.nn.log_softmax(logits), 0).sum(-1)
