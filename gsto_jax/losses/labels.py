"""Valid pixels, one-hot labels and pixel weights of label maps."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer


def valid_mask(
    labels: Integer[Array, "b H W"], num_classes: int, ignore_label: int = 255
) -> Bool[Array, "b H W"]:
    """Returns which pixels have a class of 0 to k-1 that is not the ignore label."""
    return (labels != ignore_label) & (labels >= 0) & (labels < num_classes)


def one_hot_labels(
    labels: Integer[Array, "b H W"], num_classes: int, ignore_label: int = 255
) -> Bool[Array, "b H W k"]:
    """Returns which class each pixel has; False for all classes if ignored."""
    valid = valid_mask(labels, num_classes, ignore_label)
    return valid[..., None] & (labels.astype(jnp.int32)[..., None] == _class_indices(num_classes))


def label_weight_sum(
    labels: Integer[Array, "b H W"],
    num_classes: int,
    ignore_label: int = 255,
    class_weights: Sequence[float] | None = None,
) -> Array:
    """Returns the divisor of `cross_entropy`: the number, or summed weight, of valid pixels."""
    valid = valid_mask(labels, num_classes, ignore_label)
    if class_weights is None:
        return valid.sum()
    one_hot = valid[..., None] & (labels[..., None] == _class_indices(num_classes))
    return (one_hot * broadcast_weights(class_weights)).sum()


def broadcast_weights(class_weights: Sequence[float]) -> Float[Array, "1 1 1 k"]:
    """Returns the class weights as an array that broadcasts over pixels."""
    return jnp.asarray(class_weights, float)[None, None, None]


def _class_indices(num_classes: int) -> Array:
    return jnp.arange(num_classes, dtype=jnp.int32)[None, None, None]
