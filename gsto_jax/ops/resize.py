"""Resizing of feature maps and logits, as PyTorch's `interpolate` defines it."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import is_symbolic_dim

from gsto_jax.ops import packing
from gsto_jax.ops.checks import COUNT, METHODS, check_map, each, one_of
from gsto_jax.ops.dispatch import call
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap, Packed
from gsto_jax.ops.resample import linear_taps, resample_image
from gsto_jax.ops.spatial_sharding import shard_height


def resize(
    x: FeatureMap,
    size: Sequence[int],
    method: str = "bilinear",
    align_corners: bool = False,
    *,
    gradient: bool = True,
    implementation: str | None = None,
) -> FeatureMap:
    """Resizes `b h w c` to `b size[0] size[1] c` without antialiasing.

    Args:
      x: `b h w c`. A packed map takes "transposed_conv".
      size: target height and width; any ratio, up or down. They and the sides of `x` may be the
        symbols of `jax.export`.
      method: "bilinear" or "nearest".
      align_corners: the centers of the corner pixels coincide; otherwise pixel centers lie at
        half-integers (the form of HRNet's segmentation networks). Ignored by "nearest".
      gradient: whether the result is differentiated; without a gradient CPUs are faster.
      implementation: "xla" is `jax.image.resize` and its relatives, for anything. Bilinear only:
        "neighbors" adds weighted neighbors, by integer factors; "taps" gathers two pixels an axis.
        "transposed_conv" upsamples by a power of two. None chooses: on CPUs "neighbors", or "taps"
        without a gradient, where they can run; else "xla".

    Returns:
      The resized map in the dtype of `x`; integers become float32 where they are interpolated.

    Raises:
      TypeError: `size` does not hold integers.
      ValueError: an unknown method, a size below 1, a map that is not `b h w c` with pixels, or an
        implementation that is unknown or cannot run.
    """
    check_map(x, "resize")
    each(COUNT, 2)("resize: size", size)
    one_of(METHODS)("resize: method", method)
    size = (size[0], size[1])
    if isinstance(x, Packed):
        return call("transposed_conv", _back_ends(x, size, method, align_corners), _LIMITS, x)
    plain: Any = as_floating(x) if method == "bilinear" else x
    if size == x.shape[1:3]:
        return plain
    back_ends = _back_ends(plain, size, method, align_corners)
    by_platform = {"cpu": "neighbors" if gradient else "taps"}
    resized: Any = call(implementation, back_ends, _LIMITS, plain, by_platform=by_platform)
    result: Any = shard_height(resized)
    return result


_LIMITS = {
    "neighbors": "it interpolates float32 and float64 by integer factors, without aligned corners",
    "taps": "it is bilinear, between sizes that are known",
    "transposed_conv": "it upsamples both sides by one power of two, without aligned corners",
}


def _back_ends(
    x: FeatureMap, size: tuple[int, int], method: str, align_corners: bool
) -> dict[str, Any]:
    """Returns by name the back ends that can resize so."""
    rows, columns = _factors(x, size)
    bilinear, whole = method == "bilinear", rows * columns > 0 and not align_corners
    back_ends: dict[str, Any] = {"xla": lambda x: _by_xla(x, size, method, align_corners)}
    if bilinear and whole and x.dtype in (jnp.float32, jnp.float64):
        back_ends["neighbors"] = lambda x: _along(_along(x, 2, columns), 1, rows)
    if bilinear and _are_known(x, size):
        back_ends["taps"] = lambda x: _by_taps(x, size, align_corners)
    if whole and rows == columns and rows.bit_count() == 1:
        back_ends["transposed_conv"] = lambda x: _by_transposed_conv(x, rows, method)
    return back_ends


def _are_known(x: FeatureMap, size: Sequence[int]) -> bool:
    return not any(map(is_symbolic_dim, (*x.shape[1:3], *size)))


def _factors(x: FeatureMap, size: Sequence[int]) -> tuple[int, int]:
    """Returns by which integers `b h w c` grows to `size`, 0 where by none."""
    if not _are_known(x, size):
        return 0, 0
    rows, columns = (
        0 if target % side else target // side
        for side, target in zip(x.shape[1:3], size, strict=True)
    )
    return rows, columns


def _by_xla(x: Array, size: tuple[int, int], method: str, align_corners: bool) -> Array:
    shape = (x.shape[0], *size, x.shape[3])
    if method == "nearest":
        # Pixel i takes floor(i * source / target); jax.image.resize rounds at half-integers.
        rows, columns = (_nearest(n, m) for n, m in zip(x.shape[1:3], size, strict=True))
        return x[:, rows][:, :, columns]
    if not align_corners:
        return jax.image.resize(x, shape, method, antialias=False)
    axes = [_corner_axis(n, m) for n, m in zip(x.shape[1:3], size, strict=True)]
    scale, shift = jnp.array(axes).T
    return jax.image.scale_and_translate(
        x, shape, (1, 2), scale, shift, "bilinear", antialias=False
    )


def _nearest(source: int, target: int) -> Array | np.ndarray:
    if is_symbolic_dim(source) or is_symbolic_dim(target):
        places = jnp.arange(target) * source
        return jax.lax.div(places, jnp.full_like(places, target))
    return np.arange(target) * source // target


def _corner_axis(source: int, target: int) -> tuple[float | Array, float | Array]:
    """Scale and translation that put output center i + 1/2 on input center i / scale + 1/2."""
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


def _by_taps(x: Array, size: tuple[int, int], align_corners: bool) -> Array:
    axes = zip(x.shape[1:3], size, strict=True)
    taps = [linear_taps(source, target, align_corners) for source, target in axes]
    return jax.vmap(lambda x: resample_image(x, *taps))(x)


def _by_transposed_conv(x: FeatureMap, factor: int, method: str) -> FeatureMap:
    packed = x if isinstance(x, Packed) else Packed(x, 1)
    result: Any = packing.upsample(packed, factor, method)
    return result if isinstance(x, Packed) else result.data


def _weights(factor: int) -> list[tuple[float, float, float]]:
    """What the parts of a pixel take of the one before, of it, and of the one behind."""
    places = [(part + 0.5) / factor - 0.5 for part in range(factor)]
    return [(max(0.0, -x), 1 - abs(x), max(0.0, x)) for x in places]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _along(x: Array, axis: int, factor: int) -> Array:
    """Upsamples one axis; beyond the border lies the border's pixel."""
    if factor == 1:
        return x
    side = x.shape[axis]
    cut = partial(jax.lax.slice_in_dim, axis=axis)
    before = jnp.concatenate([cut(x, 0, 1), cut(x, 0, side - 1)], axis)
    behind = jnp.concatenate([cut(x, 1, side), cut(x, side - 1, side)], axis)
    parts = [
        reduce(
            jnp.add, [tap * at for tap, at in zip(taps, (before, x, behind), strict=True) if tap]
        )
        for taps in _weights(factor)
    ]
    shape = (*x.shape[:axis], factor * side, *x.shape[axis + 1 :])
    return jnp.stack(parts, axis + 1).reshape(shape)


def _along_forward(x: Array, axis: int, factor: int) -> tuple[Array, None]:
    return _along(x, axis, factor), None


def _along_backward(axis: int, factor: int, _: None, gradient: Array) -> tuple[Array]:
    """Sums of parts, which autodiff would add up one slice at a time."""
    if factor == 1:
        return (gradient,)
    side = gradient.shape[axis] // factor
    shape = (*gradient.shape[:axis], side, factor, *gradient.shape[axis + 1 :])
    # Without the barrier XLA would sum along the other axis once for each part.
    split = jax.lax.optimization_barrier(gradient).reshape(shape)
    parts = [jax.lax.index_in_dim(split, r, axis + 1, keepdims=False) for r in range(factor)]
    taps = list(zip(parts, _weights(factor), strict=True))
    first, own, last = (
        reduce(jnp.add, [weights[n] * part for part, weights in taps if weights[n]])
        for n in range(3)
    )
    cut = partial(jax.lax.slice_in_dim, axis=axis)
    before = jnp.concatenate([cut(first, 1, side), cut(last, side - 1, side)], axis)
    behind = jnp.concatenate([cut(first, 0, 1), cut(last, 0, side - 1)], axis)
    return (own + before + behind,)


_along.defvjp(_along_forward, _along_backward)


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
