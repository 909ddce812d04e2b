"""Boundary IoU per class over a dataset (Cheng et al., CVPR 2021).

The boundary of a class is the set of its pixels within a distance of its contour: those that an
erosion by a square removes. Boundary IoU is the IoU of the true and the predicted boundary.

Ignored pixels belong to every class during erosion, so they create no contour and are not counted.
Two classes on either side of a thin ignored strip still have a contour there. Without ignored
pixels the definition equals the published one.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Integer

DISTANCE_RATIO = 0.02
"""Boundary width, as a fraction of the image diagonal."""


def boundary_counts(
    labels: Integer[Array, "b h w"],
    predictions: Integer[Array, "b h w"],
    size: Int[Array, "b 2"],
    num_classes: int,
    ignore_label: int = 255,
) -> Int[Array, "k 3"]:
    """Counts boundary pixels per class, on the device.

    `size` is (h, w) of each image without padding; the image border is a contour too. Labels that
    are outside 0..k-1 are ignored.

    Returns:
      int32: pixels in the intersection, the true boundary, and the predicted boundary.
    """
    labels, predictions = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    valid = (labels != ignore_label) & (labels >= 0) & (labels < num_classes)
    is_near_contour = jax.vmap(_is_near_contour)
    true = valid & is_near_contour(labels, valid, size)
    predicted = valid & is_near_contour(predictions, valid, size)
    both = true & predicted & (labels == predictions)

    def count(where: Array, classes: Array) -> Array:
        cells = jnp.where(where, classes, num_classes).ravel()
        return jnp.bincount(cells, length=num_classes + 1)[:-1]

    counts = [count(both, labels), count(true, labels), count(predicted, predictions)]
    return jnp.stack(counts, axis=-1).astype(jnp.int32)


def boundary_iou(counts: Int[np.ndarray, "k 3"]) -> Float[np.ndarray, " k"]:
    """Computes the IoU per class from summed counts; NaN for classes without a boundary."""
    both, true, predicted = np.asarray(counts, np.int64).T
    union = true + predicted - both
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)


def _is_near_contour(
    labels: Integer[Array, "h w"], valid: Bool[Array, "h w"], size: Int[Array, "2"]
) -> Bool[Array, "h w"]:
    """Returns whether the square around a valid pixel has another valid label or the border."""
    rows, columns = (jnp.arange(side) for side in labels.shape)
    height, width = size[0], size[1]
    diagonal = jnp.sqrt((height * height + width * width).astype(jnp.float32))
    reach = jnp.maximum(jnp.round(DISTANCE_RATIO * diagonal).astype(jnp.int32), 1)
    near_border = [
        (position < reach) | (position + reach >= side)
        for position, side in ((rows, height), (columns, width))
    ]
    # The square has another label if its maximum or minimum differs from the pixel's label.
    labels = labels.astype(jnp.uint8)
    max_differs, min_differs = (
        _max_pool(jnp.where(valid, values, 0), reach) != values for values in (labels, 255 - labels)
    )
    return max_differs | min_differs | near_border[0][:, None] | near_border[1][None]


def _max_pool(values: Int[Array, "h w"], reach: Int[Array, ""]) -> Int[Array, "h w"]:
    """Computes the maximum within `reach` rows and columns of each pixel; 0 outside the image.

    `reach` is traced, so windows double in length until two overlapping ones cover the square.
    """
    max_reach = math.ceil(DISTANCE_RATIO * math.hypot(*values.shape)) + 1
    length = 2 * reach + 1
    for axis, side in enumerate(values.shape):
        pad = [(max_reach, max_reach) if n == axis else (0, 0) for n in range(2)]
        maximum, window = jnp.pad(values, pad), jnp.ones((), jnp.int32)
        shift = 1
        while 2 * shift <= 2 * max_reach + 1:
            shifted = jax.lax.slice_in_dim(maximum, shift, None, axis=axis)
            pad = [(0, shift) if n == axis else (0, 0) for n in range(2)]
            fits = 2 * shift <= length
            maximum = jnp.where(fits, jnp.maximum(maximum, jnp.pad(shifted, pad)), maximum)
            window = jnp.where(fits, 2 * shift, window)
            shift *= 2
        first = jax.lax.dynamic_slice_in_dim(maximum, max_reach - reach, side, axis)
        last = jax.lax.dynamic_slice_in_dim(maximum, max_reach + reach + 1 - window, side, axis)
        values = jnp.maximum(first, last)
    return values
