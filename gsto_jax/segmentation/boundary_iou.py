"""Boundary IoU: how well outlines are met (Cheng et al., CVPR 2021), by class over a whole set.

The boundary of a class is what lies within a distance of its outline, inside: the pixels that an
erosion by a square takes away. Boundary IoU is the IoU of the true and the predicted boundary.

Ignored pixels belong to every class in the erosion: they make no outline, neither of the truth nor
of the prediction, and are not counted. Two classes on both sides of a thin ignored strip still have
an outline there. Without ignored pixels the definition is the published one.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

RATIO = 0.02
"""The distance, as a share of the image's diagonal."""


def boundary_counts(
    labels: Array, predictions: Array, size: Array, num_classes: int, ignore_label: int = 255
) -> Array:
    """Counts boundary pixels by class, on the device.

    Args:
      labels: `b h w` integers; pixels of `ignore_label`, or of no class, count nowhere.
      predictions: `b h w` integers.
      size: `b 2`, rows and columns that are image: their edge is an outline too.
      num_classes: k.
      ignore_label: label of the pixels to leave out.

    Returns:
      `k 3` int32: pixels of both boundaries, of the true one, of the predicted one.
    """
    labels, predictions = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    valid = (labels != ignore_label) & (labels >= 0) & (labels < num_classes)
    near_outline = jax.vmap(_near_outline)
    near_true = valid & near_outline(labels, valid, size)
    near_predicted = valid & near_outline(predictions, valid, size)
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


def _near_outline(labels: Array, valid: Array, size: Array) -> Array:
    """Whether another valid label, or the edge of the image, lies in the square around a pixel.

    Args:
      labels: `h w` labels in 0..255.
      valid: `h w`; pixels that are not valid are no part of an outline.
      size: `2`, rows and columns that are image.

    Returns:
      `h w` bool, meaningful at valid pixels.
    """
    rows, columns = (jnp.arange(side) for side in labels.shape)
    height, width = size[0], size[1]
    diagonal = jnp.sqrt((height * height + width * width).astype(jnp.float32))
    reach = jnp.maximum(jnp.round(RATIO * diagonal).astype(jnp.int32), 1)
    by_edge = [
        (places < reach) | (places + reach >= side)
        for places, side in ((rows, height), (columns, width))
    ]
    # The square holds another label where its largest or its smallest one differs from the pixel's.
    ascending = labels.astype(jnp.uint8)
    others = [
        _largest_in_squares(jnp.where(valid, values, 0), reach) != values
        for values in (ascending, 255 - ascending)
    ]
    return others[0] | others[1] | by_edge[0][:, None] | by_edge[1][None]


def _largest_in_squares(values: Array, reach: Array) -> Array:
    """Largest value `h w` within `reach` rows and columns of each pixel; 0 outside the image.

    Windows double in length until two of them, which may overlap, cover the whole length.
    """
    most = math.ceil(RATIO * math.hypot(*values.shape)) + 1
    length = 2 * reach + 1
    for axis, side in enumerate(values.shape):
        pad = [(most, most) if n == axis else (0, 0) for n in range(2)]
        largest, window = jnp.pad(values, pad), jnp.ones((), jnp.int32)
        shift = 1
        while 2 * shift <= 2 * most + 1:
            ahead = jax.lax.slice_in_dim(largest, shift, None, axis=axis)
            back = [(0, shift) if n == axis else (0, 0) for n in range(2)]
            doubles = 2 * shift <= length
            largest = jnp.where(doubles, jnp.maximum(largest, jnp.pad(ahead, back)), largest)
            window = jnp.where(doubles, 2 * shift, window)
            shift *= 2
        first = jax.lax.dynamic_slice_in_dim(largest, most - reach, side, axis)
        last = jax.lax.dynamic_slice_in_dim(largest, most + reach + 1 - window, side, axis)
        values = jnp.maximum(first, last)
    return values
