"""Resizing of feature maps and logits with the conventions of PyTorch's `interpolate`."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float, Real

from gsto_jax.ops import packing
from gsto_jax.ops.checks import COUNT, METHODS, check_map, each, one_of
from gsto_jax.ops.dispatch import call_implementation
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap, Packed
from gsto_jax.ops.resample import resample_image
from gsto_jax.ops.spatial_sharding import shard_height
from gsto_jax.ops.taps import linear_taps


def resize(
    x: Real[FeatureMap, "b h w c"],
    size: Sequence[int],
    method: str = "bilinear",
    align_corners: bool = False,
    *,
    differentiable: bool = True,
    implementation: str | None = None,
) -> Real[FeatureMap, "b _ _ c"]:
    """Resizes `b h w c` to `b size[0] size[1] c` without antialiasing.

    Args:
      x: the map. A packed map is resized by "transposed_conv".
      size: target height and width, at any ratio, up or down. The sizes may be the symbols of
        `jax.export`.
      method: "bilinear" or "nearest".
      align_corners: whether the centers of the corner pixels coincide; otherwise pixel centers lie
        at half-integers, as in HRNet's segmentation networks. Ignored by "nearest".
      differentiable: whether the result is differentiated; without, CPUs are faster.
      implementation: "xla", `jax.image.resize` and its relatives, takes everything. Bilinear only:
        "neighbors" adds weighted neighbors, for integer ratios; "taps" gathers two pixels per axis.
        "transposed_conv" upsamples by a power of two. None chooses "neighbors" on CPUs ("taps" if
        not differentiable) where it can run, else "xla".

    Returns:
      The resized map in the dtype of `x`; interpolated integers become float32.

    Raises:
      TypeError: `size` does not contain integers.
      ValueError: an unknown method, a size below 1, a map that is not `b h w c` with pixels, or an
        implementation that is unknown or cannot run.

    Example:
      >>> resize(jnp.ones((1, 8, 8, 3)), (32, 32)).shape
      (1, 32, 32, 3)
    """
    check_map(x, "resize")
    each(COUNT, 2)("resize: size", size)
    one_of(METHODS)("resize: method", method)
    size = (size[0], size[1])
    if isinstance(x, Packed):
        available = _implementations(x, size, method, align_corners)
        return call_implementation("transposed_conv", available, _REQUIREMENTS, x)
    plain: Any = as_floating(x) if method == "bilinear" else x
    if size == x.shape[1:3]:
        return plain
    resized: Any = call_implementation(
        implementation,
        _implementations(plain, size, method, align_corners),
        _REQUIREMENTS,
        plain,
        platform_defaults={"cpu": "neighbors" if differentiable else "taps"},
    )
    result: Any = shard_height(resized)
    return result


_REQUIREMENTS = {
    "neighbors": "it interpolates float32 and float64 by integer ratios, without align_corners",
    "taps": "it is bilinear, between static sizes",
    "transposed_conv": "it upsamples both sides by one power of two, without align_corners",
}


def _implementations(
    x: FeatureMap, size: tuple[int, int], method: str, align_corners: bool
) -> dict[str, Any]:
    """Returns by name the implementations that can resize `x`."""
    rows, columns = _integer_ratios(x, size)
    bilinear, integer = method == "bilinear", rows * columns > 0 and not align_corners
    available: dict[str, Any] = {"xla": lambda x: _by_xla(x, size, method, align_corners)}
    if bilinear and integer and x.dtype in (jnp.float32, jnp.float64):
        available["neighbors"] = lambda x: _upsample_axis(_upsample_axis(x, 2, columns), 1, rows)
    if bilinear and _is_static(x, size):
        available["taps"] = lambda x: _by_taps(x, size, align_corners)
    if integer and rows == columns and rows.bit_count() == 1:
        available["transposed_conv"] = lambda x: _by_transposed_conv(x, rows, method)
    return available


def _is_static(x: FeatureMap, size: Sequence[int]) -> bool:
    return not any(map(is_symbolic_dim, (*x.shape[1:3], *size)))


def _integer_ratios(x: FeatureMap, size: Sequence[int]) -> tuple[int, int]:
    """Returns the ratios of `size` to the size of `x`, with 0 for those that are not integers."""
    if not _is_static(x, size):
        return 0, 0
    rows, columns = (
        0 if target % side else target // side
        for side, target in zip(x.shape[1:3], size, strict=True)
    )
    return rows, columns


# The implementation "xla"


def _by_xla(x: Array, size: tuple[int, int], method: str, align_corners: bool) -> Array:
    if method == "nearest":
        # Pixel i reads floor(i * source / target); jax.image.resize rounds at half-integers.
        rows, columns = (_nearest(n, m) for n, m in zip(x.shape[1:3], size, strict=True))
        return x[:, rows][:, :, columns]
    return corner_aligned_resize(x, size) if align_corners else bilinear_resize(x, size)


# Exports to ONNX know these functions by their names.


@partial(jax.jit, static_argnames="size")
def bilinear_resize(x: Array, size: tuple[int, int]) -> Array:
    """Resizes `b h w c` bilinearly, with pixel centers at half-integers."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


@partial(jax.jit, static_argnames="size")
def corner_aligned_resize(x: Array, size: tuple[int, int]) -> Array:
    """Resizes `b h w c` bilinearly, with aligned centers of the corner pixels."""
    axes = [_corner_alignment(n, m) for n, m in zip(x.shape[1:3], size, strict=True)]
    scale, shift = jnp.array(axes).T
    return jax.image.scale_and_translate(
        x, (x.shape[0], *size, x.shape[3]), (1, 2), scale, shift, "bilinear", antialias=False
    )


def _nearest(source: int, target: int) -> Array | np.ndarray:
    if is_symbolic_dim(source) or is_symbolic_dim(target):
        numerators = jnp.arange(target) * source
        return jax.lax.div(numerators, jnp.full_like(numerators, target))
    return np.arange(target) * source // target


def _corner_alignment(source: int, target: int) -> tuple[float | Array, float | Array]:
    """Returns scale and translation that align output center i with input center i / scale."""
    if is_symbolic_dim(source) or is_symbolic_dim(target):
        n, m = jnp.asarray(source), jnp.asarray(target)
        scale = (m - 1) / jnp.maximum(n - 1, 1)
        scale = jnp.where(n == 1, m, jnp.where(m == 1, 1, scale))
        return scale, jnp.where((n == 1) | (m == 1), 0, 0.5 - 0.5 * scale)
    if source == 1:
        return float(target), 0.0
    if target == 1:
        return 1.0, 0.0
    ratio = (target - 1) / (source - 1)
    return ratio, 0.5 - 0.5 * ratio


# The implementations "taps" and "transposed_conv"


def _by_taps(x: Array, size: tuple[int, int], align_corners: bool) -> Array:
    axes = zip(x.shape[1:3], size, strict=True)
    taps = [linear_taps(source, target, align_corners) for source, target in axes]
    return jax.vmap(lambda x: resample_image(x, *taps))(x)


def _by_transposed_conv(x: FeatureMap, scale: int, method: str) -> FeatureMap:
    packed = x if isinstance(x, Packed) else Packed(x, 1)
    result: Any = packing.upsample(packed, scale, method)
    return result if isinstance(x, Packed) else result.data


# The implementation "neighbors"


def _neighbor_weights(scale: int) -> list[tuple[float, float, float]]:
    """Returns the weights of the previous, the same and the next pixel, for each subpixel."""
    offsets = [(n + 0.5) / scale - 0.5 for n in range(scale)]
    return [(max(0.0, -x), 1 - abs(x), max(0.0, x)) for x in offsets]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _upsample_axis(x: Array, axis: int, scale: int) -> Array:
    """Upsamples one axis by an integer; border pixels are repeated beyond the border."""
    if scale == 1:
        return x
    side = x.shape[axis]
    cut = partial(jax.lax.slice_in_dim, axis=axis)
    previous = jnp.concatenate([cut(x, 0, 1), cut(x, 0, side - 1)], axis)
    following = jnp.concatenate([cut(x, 1, side), cut(x, side - 1, side)], axis)
    subpixels = [
        reduce(
            jnp.add,
            [w * value for w, value in zip(weights, (previous, x, following), strict=True) if w],
        )
        for weights in _neighbor_weights(scale)
    ]
    shape = (*x.shape[:axis], scale * side, *x.shape[axis + 1 :])
    return jnp.stack(subpixels, axis + 1).reshape(shape)


def _upsample_axis_forward(x: Array, axis: int, scale: int) -> tuple[Array, None]:
    return _upsample_axis(x, axis, scale), None


def _upsample_axis_backward(axis: int, scale: int, _: None, dy: Array) -> tuple[Array]:
    """Sums over subpixels, which autodiff would add up one slice at a time."""
    if scale == 1:
        return (dy,)
    side = dy.shape[axis] // scale
    shape = (*dy.shape[:axis], side, scale, *dy.shape[axis + 1 :])
    # Without the barrier XLA would sum along the other axis once for each subpixel.
    dy = jax.lax.optimization_barrier(dy).reshape(shape)
    subpixels = [jax.lax.index_in_dim(dy, n, axis + 1, keepdims=False) for n in range(scale)]
    pairs = list(zip(subpixels, _neighbor_weights(scale), strict=True))
    to_previous, to_same, to_following = (
        reduce(jnp.add, [weights[n] * value for value, weights in pairs if weights[n]])
        for n in range(3)
    )
    cut = partial(jax.lax.slice_in_dim, axis=axis)
    previous = jnp.concatenate([cut(to_previous, 1, side), cut(to_following, side - 1, side)], axis)
    following = jnp.concatenate([cut(to_previous, 0, 1), cut(to_following, 0, side - 1)], axis)
    return (to_same + previous + following,)


_upsample_axis.defvjp(_upsample_axis_forward, _upsample_axis_backward)


def adaptive_average_pool(x: Real[Array, "b h w c"], bins: int) -> Float[Array, "b bins bins c"]:
    """Averages `b h w c` over a grid of `bins x bins`, as PyTorch's `adaptive_avg_pool2d`.

    Bin i of n pixels covers floor(i n / bins) to ceil((i + 1) n / bins): bins may share a pixel,
    and none is empty however small the map. The sides of `x` may be the symbols of `jax.export`.

    Returns:
      `b bins bins c` in the dtype of `x` (float32 for integers), summed in at least float32.
    """
    check_map(x, "adaptive_average_pool")
    COUNT("adaptive_average_pool: bins", bins)
    x = as_floating(x)
    rows, columns = (_bin_masks(side, bins) for side in x.shape[1:3])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    exact: dict[str, Any] = {"precision": "highest", "preferred_element_type": wide}
    sums = jnp.einsum("bhwc,ih->biwc", x, rows.astype(x.dtype), **exact)
    sums = jnp.einsum("biwc,jw->bijc", sums, columns.astype(wide), **exact)
    counts = rows.sum(1)[:, None] * columns.sum(1)[None]
    return (sums / counts.astype(wide)[None, ..., None]).astype(x.dtype)


def _bin_masks(side: int, bins: int) -> Array | np.ndarray:
    """Returns which pixels belong to which bin: `bins side` booleans."""
    numpy: Any = jnp if is_symbolic_dim(side) else np
    pixel, n = numpy.arange(side)[None], numpy.arange(bins)[:, None]
    return (pixel >= n * side // bins) & (pixel < -(-(n + 1) * side // bins))
