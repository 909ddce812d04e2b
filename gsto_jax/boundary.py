"""Boundary IoU: how well outlines are met (Cheng et al., CVPR 2021), by class over a whole set.

The boundary of a class is what lies within a distance of its outline, inside: the pixels that an
erosion by a square takes away. Boundary IoU is the IoU of the true and the predicted boundary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

RATIO = 0.02
"""The distance, as a share of the picture's diagonal."""


def boundary_counts(
    labels: Array, predictions: Array, size: Array, num_classes: int, ignore_label: int = 255
) -> Array:
    """Counts boundary pixels by class, on the device.

    Args:
      labels: `b h w` integers; pixels of `ignore_label`, or of no class, count nowhere.
      predictions: `b h w` integers.
      size: `b 2`, rows and columns that are picture: their edge is an outline too.
      num_classes: k.
      ignore_label: label of the pixels to leave out.

    Returns:
      `k 3` int32: pixels of both boundaries, of the true one, of the predicted one.
    """
    labels, predictions = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    valid = (labels != ignore_label) & (labels >= 0) & (labels < num_classes)
    near_true = valid & jax.vmap(_near_outline)(labels, size)
    near_predicted = valid & jax.vmap(_near_outline)(predictions, size)
    both = near_true & near_predicted & (labels == predictions)

    def count(where: Array, classes: Array) -> Array:
        cells = jnp.where(where, classes, num_classes).ravel()
        return jnp.bincount(cells, length=num_classes + 1)[:-1]

    pairs = ((both, labels), (near_true, labels), (near_predicted, predictions))
    return jnp.stack([count(*pair) for pair in pairs], axis=-1).astype(jnp.int32)


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """IoU by class from summed counts `k 3`; NaN where there is no boundary at all."""
    both, true, predicted = np.asarray(counts, np.int64).T
    union = true + predicted - both
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)


def _near_outline(labels: Array, size: Array) -> Array:
    """Whether another label, or the picture's edge, lies in the square around each pixel `h w`."""
    rows, columns = (jnp.arange(side) for side in labels.shape)
    height, width = size[0], size[1]
    diagonal = jnp.sqrt((height * height + width * width).astype(jnp.float32))
    reach = jnp.maximum(jnp.round(RATIO * diagonal).astype(jnp.int32), 1)
    by_edge = [
        (places < reach) | (places + reach >= side)
        for places, side in ((rows, height), (columns, width))
    ]
    # A square holds another label where one of its blocks of two by two holds several.
    corner = labels[:-1, :-1]
    others = (labels[1:, :-1], labels[:-1, 1:], labels[1:, 1:])
    mixed = jnp.stack([other != corner for other in others]).any(0)
    inside = _in_squares(jnp.pad(mixed, ((0, 1), (0, 1))), reach)
    return (inside > 0) | by_edge[0][:, None] | by_edge[1][None]


def _in_squares(marks: Array, reach: Array) -> Array:
    """Marks in the square around each pixel, less its last row and column: `h w` int32."""
    sums = jnp.pad(
        jnp.cumsum(jnp.cumsum(marks.astype(jnp.int32), axis=0), axis=1), ((1, 0), (1, 0))
    )
    for axis, side in enumerate(marks.shape):
        places = jnp.arange(side)
        after = jnp.clip(places + reach, 0, side)
        before = jnp.clip(places - reach, 0, side)
        sums = jnp.take(sums, after, axis) - jnp.take(sums, before, axis)
    return sums
