"""Image sizes on the way to a network. Imports no JAX unless sizes are its symbols.

Sizes may be the symbols of `jax.export`, so that predictors and exported programs share this code.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gsto_jax.types import Size

PUBLISHED = "published"
"""Value of `eval.pad_to` for evaluation without padding."""
SIZE_DIVISOR = 32
"""Stride of an HRNet's lowest branch: sides divisible by it need no rounding in the network."""


def round_up(size: Sequence[int], multiple: int) -> Size:
    """Rounds both sides up to a multiple; 0 leaves them unchanged."""
    multiple = max(1, multiple)
    # Not -(-side // multiple): ONNX divides towards zero, so negative numbers would differ.
    height, width = ((side + multiple - 1) // multiple * multiple for side in size)
    return height, width


def downscaled_size(size: Sequence[int], max_side: int) -> Size:
    """Returns an image's size, scaled down so that no side exceeds `max_side`; 0 is no limit."""
    height, width = size
    if not max_side:
        return height, width
    long_side = _max(height, width)
    return _scaled(size, max_side, _max(long_side, max_side))


def scaled_size(
    size: Sequence[int], scale: float, base_size: int = 0, fixed_size: Sequence[int] = (0, 0)
) -> Size:
    """Returns the size of an image at one scale of a multi-scale test.

    Args:
      size: size (h, w) of the image.
      scale: scale relative to the base size.
      base_size: long side at scale 1; 0 is the image's own.
      fixed_size: size (h, w) at scale 1, aspect ratio ignored; (0, 0) uses `base_size`.
    """
    if any(fixed_size):
        height, width = (max(1, int(side * scale + 0.5)) for side in fixed_size)
        return height, width
    height, width = size
    if scale == 1 and not base_size:
        return height, width
    long_side = _max(height, width)
    return _scaled(size, int((base_size or long_side) * scale + 0.5), long_side)


def _scaled(size: Sequence[int], target: Any, source: Any) -> Size:
    """Scales both sides by target / source, rounded half up, to at least 1."""
    height, width = (_max(1, (2 * side * target + source) // (2 * source)) for side in size)
    return height, width


def crop_to_image(values: Any, size: Sequence[int], padded_shape: Sequence[int]) -> Any:
    """Crops the padding from a map of a padded image.

    Args:
      values: map `h' w'`, at any resolution.
      size: size (h, w) of the image.
      padded_shape: size (h, w) of the padded image.
    """
    height, width = (
        max(1, -(-map_side * side // padded_side))
        for map_side, side, padded_side in zip(values.shape, size, padded_shape, strict=True)
    )
    return values[:height, :width]


def _max(a: Any, b: Any) -> Any:
    if isinstance(a, (int, np.integer)) and isinstance(b, (int, np.integer)):
        return max(a, b)
    import jax

    return jax.core.max_dim(a, b)
