"""Sizes of images on their way to a network, and what fills the padding beside them.

The sizes may be the symbols of `jax.export`, so that predictions and exported programs share them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.types import Size

PUBLISHED = "published"
"""The value of `eval.pad_to` with which images are scored as they are."""
SIZE_DIVISOR = 32
"""Stride of the lowest branch: sides that it divides need no rounding anywhere in the network."""


def round_up(size: Sequence[int], multiple: int) -> Size:
    """Rounds both sides up to a multiple; 0 leaves them as they are."""
    multiple = max(1, multiple)
    # Nothing is negative: ONNX divides towards zero.
    height, width = ((side + multiple - 1) // multiple * multiple for side in size)
    return height, width


def larger(a: Any, b: Any) -> Any:
    """Returns the larger of two lengths, which may be symbols."""
    return jax.core.max_dim(a, b)


def downscaled_size(size: Sequence[int], long_side: int) -> Size:
    """Returns the size of an image whose long side is scaled down to a limit, 0 for none."""
    height, width = size
    if not long_side:
        return height, width
    return _scaled_to(height, width, long_side, larger(larger(height, width), long_side))


def scaled_size(
    size: Sequence[int], scale: float, base_size: int = 0, fixed_size: Sequence[int] = (0, 0)
) -> Size:
    """Returns the size of an image at a scale of a test.

    Args:
      size: (h, w) of the image.
      scale: relative to the size of the test.
      base_size: long side at scale 1; 0: the image's own.
      fixed_size: (h, w) at scale 1 whatever the proportions; (0, 0): as `base_size` says.
    """
    if any(fixed_size):
        height, width = (max(1, int(side * scale + 0.5)) for side in fixed_size)
        return height, width
    height, width = size
    if scale == 1 and not base_size:
        return height, width
    long_side = larger(height, width)
    return _scaled_to(height, width, int((base_size or long_side) * scale + 0.5), long_side)


def _scaled_to(height: Any, width: Any, target: Any, source: Any) -> Size:
    """Scales both sides by target / source, rounding halves up, to at least 1."""
    rows, columns = (
        larger(1, (2 * side * target + source) // (2 * source)) for side in (height, width)
    )
    return rows, columns


def replicate_edges(images: Array, size: Array) -> Array:
    """Fills what lies right of and below images with their outermost pixels.

    Args:
      images: `b h w 3`.
      size: `b 2` integers, rows and columns that are image.

    Returns:
      `b h w 3`.
    """

    def fill(image: Array, size: Array) -> Array:
        rows, columns = (
            jnp.minimum(jnp.arange(side), size[n] - 1) for n, side in enumerate(image.shape[:2])
        )
        return jnp.take(jnp.take(image, rows, 0), columns, 1)

    return jax.vmap(fill)(images, size)


def crop_to_image(values: Any, size: Sequence[int], shape: Sequence[int]) -> Any:
    """Returns the part of a map `h' w'` of a padded image that shows the image.

    Args:
      values: the map.
      size: (h, w) of the image.
      shape: (h, w) of the padded image.
    """
    rows, columns = (
        max(1, -(-side * part // whole))
        for side, part, whole in zip(values.shape, size, shape, strict=True)
    )
    return values[:rows, :columns]
