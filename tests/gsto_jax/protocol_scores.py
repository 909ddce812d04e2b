"""Scores of a one-layer network under a test protocol."""

from functools import lru_cache

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax.segmentation.inference import batch_views, extract_windows, window_scores

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def convolution(kernel, bias, stride, x):
    """Applies the one-layer network of the golden file; kernel `o i h w`."""
    y = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel.transpose(2, 3, 1, 0)),
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + bias.reshape(1, 1, 1, -1)


@lru_cache(maxsize=4)
def view_scores(protocol, apply):
    """Returns the compiled scores of a view by a network, for `scores_of`."""
    padding = (np.float32(protocol.pad or MEAN) - MEAN) / STD

    @jax.jit
    def step(images, view):
        windows = extract_windows(protocol, jnp.asarray(padding), images, view)
        return window_scores(protocol, False, [apply(window) for window in windows], view)

    return step


def scores_of(protocol, apply, image, padded_shape=None):
    """Computes scores `h w k` of a normalized image `h w 3` on a padded shape."""
    size = image.shape[:2]
    padded_shape = padded_shape or size
    images = np.zeros((1, *padded_shape, 3), np.float32)
    images[0, : size[0], : size[1]] = image
    step = view_scores(protocol, apply)
    views = batch_views(protocol, [size], padded_shape, [size])
    return sum(np.asarray(step(images, view)) for view in views)[0, : size[0], : size[1]]


def image_batch(sizes, padded_shape):
    """Returns random smooth images of these sizes on a padded shape, as a batch."""
    rng = np.random.default_rng(3)
    batch = np.zeros((len(sizes), *padded_shape, 3), np.uint8)
    for n, (height, width) in enumerate(sizes):
        coarse = rng.integers(0, 255, (4, 5, 3), np.uint8)
        batch[n, :height, :width] = cv2.resize(coarse, (width, height))
    return {"image": batch, "size": np.array(sizes, np.int32)}
