"""Resampling of feature maps and logits, as PyTorch's `interpolate` defines it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import is_symbolic_dim

from gsto_jax.ops.checks import COUNT, METHODS, check_map, each
from gsto_jax.ops.enlarge import enlarge_by, integer_factors
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap, Packed, upsample
from gsto_jax.ops.spatial_sharding import along_space


def resize(
    x: FeatureMap, size: Sequence[int], method: str = "bilinear", align_corners: bool = False
) -> FeatureMap:
    """Resamples `b h w c` to `b size[0] size[1] c` without antialiasing.

    Args:
      x: `b h w c`; of a packed map both sides double so many times, without `align_corners`.
      size: target height and width; any ratio, up or down. They and the sides of `x` may be the
        symbols of `jax.export`.
      method: "bilinear" or "nearest".
      align_corners: the centres of the corner pixels coincide; otherwise pixel centres lie at
        half-integers (the form of HRNet's segmentation networks). "nearest" takes no notice.

    Returns:
      The resampled map in the dtype of `x`; integers become float32 where they are interpolated.

    Raises:
      TypeError: `size` does not hold integers.
      ValueError: an unknown method, a size below 1, or a map that is not `b h w c` with pixels.
    """
    check_map(x, "resize")
    each(COUNT, 2)("resize: size", size)
    if method not in METHODS:
        raise ValueError(f"unknown resize method {method!r}: use 'bilinear' or 'nearest'")
    if isinstance(x, Packed):
        return upsample(x, size[0] // x.shape[1], method)
    if method == "bilinear":
        x = as_floating(x)
    if tuple(size) == x.shape[1:3]:
        return x
    shape = (x.shape[0], *size, x.shape[3])
    if method == "nearest":
        # Pixel i takes floor(i * source / target); jax.image.resize rounds at half-integers.
        rows, columns = (_nearest(n, m) for n, m in zip(x.shape[1:3], size, strict=True))
        return along_space(x[:, rows][:, :, columns])
    if not align_corners:
        whole = partial(jax.image.resize, shape=shape, method=method, antialias=False)
        by = integer_factors(x, size)
        if by is None:
            return along_space(whole(x))
        fast = partial(enlarge_by, factors=by)
        return along_space(jax.lax.platform_dependent(x, cpu=fast, default=whole))
    axes = [_corner_axis(n, m) for n, m in zip(x.shape[1:3], size, strict=True)]
    scale, shift = jnp.array(axes).T
    resized = jax.image.scale_and_translate(
        x, shape, (1, 2), scale, shift, "bilinear", antialias=False
    )
    return along_space(resized)


def adaptive_average_pool(x: Array, bins: int) -> Array:
    """Means of `b h w c` over `bins x bins` parts, as PyTorch's `adaptive_avg_pool2d` cuts them.

    Part i of n pixels runs from floor(i n / bins) to ceil((i + 1) n / bins): parts may share a
    pixel, and none is empty however small the map. The sides of `x` may be the symbols of
    `jax.export`.

    Returns:
      `b bins bins c` in the dtype of `x` (float32 for integers), summed in at least float32.
    """
    check_map(x, "adaptive_average_pool")
    COUNT("adaptive_average_pool: bins", bins)
    x = as_floating(x)
    rows, columns = (_parts(side, bins) for side in x.shape[1:3])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    exact: dict[str, Any] = {"precision": "highest", "preferred_element_type": wide}
    sums = jnp.einsum("bhwc,ih->biwc", x, rows.astype(x.dtype), **exact)
    sums = jnp.einsum("biwc,jw->bijc", sums, columns.astype(wide), **exact)
    sizes = rows.sum(1)[:, None] * columns.sum(1)[None]
    return (sums / sizes.astype(wide)[None, ..., None]).astype(x.dtype)


def _parts(side: int, bins: int) -> Array | np.ndarray:
    """Which pixels belong to which part: `bins side` of True and False."""
    library: Any = jnp if is_symbolic_dim(side) else np
    pixels, part = library.arange(side)[None], library.arange(bins)[:, None]
    return (pixels >= part * side // bins) & (pixels < -(-(part + 1) * side // bins))


def _nearest(source: int, target: int) -> Array | np.ndarray:
    if is_symbolic_dim(source) or is_symbolic_dim(target):
        places = jnp.arange(target) * source
        return jax.lax.div(places, jnp.full_like(places, target))
    return np.arange(target) * source // target


def _corner_axis(source: int, target: int) -> tuple[float | Array, float | Array]:
    """Scale and translation that put output centre i + 1/2 on input centre i / scale + 1/2."""
    if is_symbolic_dim(source) or is_symbolic_dim(target):
        n, m = jnp.asarray(source), jnp.asarray(target)
        ratio = (m - 1) / jnp.maximum(n - 1, 1)
        stretch = jnp.where(n == 1, m, jnp.where(m == 1, 1, ratio))
        return stretch, jnp.where((n == 1) | (m == 1), 0, 0.5 - 0.5 * stretch)
    if source == 1:
        return float(target), 0.0
    if target == 1:
        return 1.0, 0.0
    scale = (target - 1) / (source - 1)
    return scale, 0.5 - 0.5 * scale
