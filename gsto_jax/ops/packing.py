"""Packed maps: neighboring pixels share the channel axis, so that narrow maps fill a TPU's lanes.

A TPU computes on 128 lanes and pads channels to them: 18 channels cost as much as 128. A `Packed`
map stores `b h w c` as `b h w/p p*c`: the channels of p neighbors in a row are concatenated. Layers
accept it instead of an array and return the type they were given. The packed kernels and vectors
computed here let convolution, BN and upsampling act on packed maps as on plain ones; they only add
zeros to the sums.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import FrozenDict
from jax import Array

LANES = 128
"""Number of channels that a TPU processes in parallel."""


@struct.dataclass
class Packed:
    """A map `b h w c` stored as `b h w/factor factor*c`; `shape` is the shape of the plain map.

    Attributes:
      data: the stored array.
      factor: number of pixels that share the channel axis.
      factors: factors, by width, of the maps that convolutions and upsampling compute from this
        one; for other widths the maps keep `factor`.
    """

    data: Array
    factor: int = struct.field(pytree_node=False)
    factors: Mapping[int, int] = struct.field(pytree_node=False, default=FrozenDict())

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the plain map."""
        batch, height, width, lanes = self.data.shape
        return batch, height, width * self.factor, lanes // self.factor

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of the stored array."""
        return self.data.dtype

    def factor_at(self, width: int) -> int:
        """Returns the factor of the map of this width that a layer computes from this one."""
        return self.factors.get(width, self.factor)

    def __add__(self, other: "Packed") -> "Packed":
        if self.factor != other.factor:
            raise ValueError(f"maps packed by {self.factor} and {other.factor} cannot be added")
        return replace(self, data=self.data + other.data)


FeatureMap = TypeVar("FeatureMap", bound=Array | Packed)
"""An array or a packed map: layers return the type that they are given."""


def pack(x: Array | Packed, factors: Mapping[int, int]) -> Array | Packed:
    """Packs `b h w c` by `factors[w]`; without factors the map stays plain.

    Args:
      x: a plain map. A packed map keeps its data, and only passes on the new factors.
      factors: factors by width, of this map and of the maps computed from it.
    """
    if isinstance(x, Packed):
        return replace(x, factors=FrozenDict(factors))
    return _pack(x, factors[x.shape[2]], FrozenDict(factors)) if factors else x


def pack_like(x: Array, like: FeatureMap) -> FeatureMap:
    """Packs `b h w c` as another map of its width; if that map is plain, `x` stays plain."""
    result: Any = _pack(x, like.factor, like.factors) if isinstance(like, Packed) else x
    return result


def _pack(x: Array, factor: int, factors: Mapping[int, int]) -> Packed:
    batch, height, width, channels = x.shape
    shape = batch, height, width // factor, factor * channels
    return Packed(x.reshape(shape) if factor > 1 else x, factor, factors)


def unpack(x: Array | Packed) -> Array:
    """Returns the plain map `b h w c`."""
    data, factor = unwrap(x)
    return data.reshape(x.shape) if factor > 1 else data


def unwrap(x: Array | Packed) -> tuple[Array, int]:
    """Returns the stored array of a map and its factor, which is 1 for a plain map."""
    return (x.data, x.factor) if isinstance(x, Packed) else (x, 1)


def wrap_like(data: Array, like: FeatureMap, factor: int | None = None) -> FeatureMap:
    """Returns `data` as a map of the type of `like`, packed by `factor` or else as `like`."""
    result: Any = data
    if isinstance(like, Packed):
        result = replace(like, data=data, factor=factor or like.factor)
    return result


def tile(vector: Array, factor: int) -> Array:
    """Repeats a vector over channels `c` to packed channels `factor*c`."""
    return vector if factor == 1 else jnp.tile(vector, factor)


def fold(vector: Array, factor: int) -> Array:
    """Sums a vector over packed channels `factor*c` to channels `c`: the transpose of `tile`."""
    return vector if factor == 1 else vector.reshape(factor, -1).sum(0)


def pack_factors(widths: Sequence[int], lanes: int = LANES) -> tuple[int, ...]:
    """Returns the packing factors of the branches of a network, highest resolution first.

    Args:
      widths: channels of the branches; each branch has half the resolution of the previous one.
      lanes: number of lanes to fill; 0 packs nothing.

    Returns:
      A power of two for each branch: the largest that stays within the lanes and is at most twice
      the next branch's, so that a stride-2 convolution leads from each packing to the next.
    """
    factors: list[int] = []
    for width in reversed(widths):
        largest = 1 << max((lanes // width).bit_length() - 1, 0)
        factors.insert(0, min(largest, 2 * factors[0]) if factors else largest)
    return tuple(factors)


def packed_kernel(
    kernel: Array, stride: int, dilation: int, factor: int, out_factor: int
) -> tuple[Array, int, tuple[int, int]]:
    """Returns the kernel that convolves packed maps as `kernel` convolves plain ones.

    Args:
      kernel: `kh kw c features`; the convolution pads `dilation * (kw // 2)`.
      stride: stride of the convolution.
      dilation: dilation of the convolution along the width.
      factor: packing factor of the input.
      out_factor: packing factor of the output; `out_factor * stride` is a multiple of `factor`.

    Returns:
      The kernel `kh K factor*c out_factor*features`, its stride along the packed width, and its
      reach (left, right) from the pixel above it. It has no dilation along the width.

    Raises:
      ValueError: the stride cannot lead from one factor to the other.
    """
    if out_factor * stride % factor:
        raise ValueError(
            f"a convolution of stride {stride} cannot lead from packing factor {factor} to "
            f"{out_factor}"
        )
    height, width, channels, features = kernel.shape
    one_hot, reach = _kernel_taps(width, stride, dilation, factor, out_factor)
    # At most one tap is 1 in each sum, so the products are the kernel's values exactly.
    packed = jnp.einsum(
        "eqrk,hkio->heqiro",
        jnp.asarray(one_hot, kernel.dtype),
        kernel,
        precision=jax.lax.Precision.HIGHEST,
    )
    shape = (height, one_hot.shape[0], factor * channels, out_factor * features)
    return packed.reshape(shape), stride * out_factor // factor, reach


@lru_cache
def _kernel_taps(
    width: int, stride: int, dilation: int, factor: int, out_factor: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns the one-hot kernel taps `e q r k`, and the reach of the packed kernel.

    Tap k leads from pixel q of packed input pixel e to pixel r of the packed output pixel.
    """
    taps = dilation * (np.arange(width) - width // 2)
    pixels = stride * np.arange(out_factor)[:, None] + taps
    packed_pixels, slots = pixels // factor, pixels % factor
    left, right = -packed_pixels.min(), packed_pixels.max()
    one_hot = np.zeros((left + right + 1, factor, out_factor, width), np.float32)
    for r in range(out_factor):
        for k in range(width):
            one_hot[packed_pixels[r, k] + left, slots[r, k], r, k] = 1
    return one_hot, (int(left), int(right))


def upsample(x: Packed, scale: int, method: str = "bilinear") -> Packed:
    """Upsamples a packed map by an integer, as `resize` does a plain one.

    One transposed convolution with the interpolation weights as its kernel: the map keeps the
    layout of the convolutions around it.

    Args:
      x: the map.
      scale: ratio of both sides, a power of two.
      method: "bilinear" (half-pixel centers) or "nearest".
    """
    if scale == 1 and x.factor == x.factor_at(x.shape[2]):
        return x
    identity = np.eye(x.shape[-1])
    precision = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return project_and_upsample(x, identity, scale, method=method, precision=precision)


def project_and_upsample(
    x: Packed,
    kernel: Array | np.ndarray,
    scale: int,
    *,
    method: str = "bilinear",
    precision: jax.lax.Precision | None = None,
) -> Packed:
    """Convolves a packed map 1x1 and upsamples it, by one transposed convolution.

    Args:
      x: the map.
      kernel: `c features`.
      scale: ratio of both sides, a power of two.
      method: "bilinear" (half-pixel centers) or "nearest".
      precision: precision of the convolution.
    """
    factor, out_factor = x.factor, x.factor_at(x.shape[2] * scale)
    _, height, width, lanes = x.data.shape
    rows, row_pad = _upsampling_kernel(scale, 1, 1, method)
    columns, column_pad = _upsampling_kernel(scale, factor, out_factor, method)
    features = kernel.shape[1]
    spatial = np.einsum("a,eqr->aeqr", rows[:, 0, 0], columns)
    if isinstance(kernel, np.ndarray):
        packed = np.einsum("aeqr,ij->aeqirj", spatial, kernel)
    else:
        packed = jnp.einsum(
            "aeqr,ij->aeqirj",
            jnp.asarray(spatial, kernel.dtype),
            kernel,
            precision=jax.lax.Precision.HIGHEST,
        )
    packed = packed.reshape(len(rows), len(columns), lanes, out_factor * features)
    strides = (scale, scale * factor // out_factor)
    out_sides = height * scale, width * scale * factor // out_factor
    padding = [
        (low, out_side - 1 + len(taps) - low - (stride * (side - 1) + 1))
        for low, taps, out_side, side, stride in zip(
            (row_pad, column_pad), (rows, columns), out_sides, (height, width), strides, strict=True
        )
    ]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = jax.lax.conv_general_dilated(
        x.data,
        jnp.asarray(packed, x.dtype),
        window_strides=(1, 1),
        padding=padding,
        lhs_dilation=strides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    ).astype(wide)
    # At the border, the weights outside are distributed over those inside.
    row_scale = _border_scale(height, scale, method)[None, :, None, None]
    column_scale = np.repeat(
        _border_scale(width * factor, scale, method).reshape(1, 1, -1, out_factor), features, 3
    )
    y = (y * jnp.asarray(row_scale, wide) * jnp.asarray(column_scale, wide)).astype(x.dtype)
    return wrap_like(y, x, out_factor)


def _interpolation_weight(distance: np.ndarray, method: str) -> np.ndarray:
    """Returns the weight of an input pixel at a distance, in input pixels, from the output."""
    if method == "nearest":
        return (np.abs(distance) < 0.5).astype(float)
    return np.maximum(0, 1 - np.abs(distance))


@lru_cache
def _upsampling_kernel(
    scale: int, factor: int, out_factor: int, method: str
) -> tuple[np.ndarray, int]:
    """Returns the kernel `e q r` of a transposed convolution along one side, and its low padding.

    Weight `e q r` leads from pixel q of a packed input pixel to pixel r of a packed output pixel.
    """
    stride = scale * factor // out_factor
    reach = math.ceil(2 * scale / out_factor) + stride
    # Y - stride * X, for a packed output pixel Y and the packed input pixel X
    offsets = np.arange(-reach, reach + 1)
    q, r = np.arange(factor), np.arange(out_factor)
    center = (out_factor * offsets[:, None, None] + r + 0.5) / scale - 0.5
    weights = _interpolation_weight(center - q[:, None], method)
    nonzero = np.flatnonzero(weights.any((1, 2)))
    first, last = nonzero[0], nonzero[-1]
    # Kernel position t applies where stride * X = Y + t - padding, so the offsets run backwards.
    return weights[first : last + 1][::-1], int(offsets[last])


@lru_cache
def _border_scale(side: int, scale: int, method: str) -> np.ndarray:
    """Returns one over the sum of the weights inside the map, for each output pixel."""
    center = (np.arange(side * scale) + 0.5) / scale - 0.5
    neighbors = np.floor(center)[:, None] + np.arange(2)
    inside = (neighbors >= 0) & (neighbors < side)
    return 1 / (_interpolation_weight(center[:, None] - neighbors, method) * inside).sum(1)
