"""Maps whose neighboring pixels share the channels, so that narrow maps fill the lanes of a TPU.

A TPU computes on 128 lanes and pads the channels of a map to them: 18 channels cost what 128 do. A
`Packed` map stores `b h w c` as `b h w/p p*c`: p neighbors of a row lie one behind the other in the
channels. Layers take it in place of an array, and return what they were given: an array for an
array, a packed map for a packed one. The kernels and vectors made here let convolution, BN and
upsampling act on it as on a plain map; they only add zeros to the sums.
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
"""Channels that a TPU computes on at once."""


@struct.dataclass
class Packed:
    """A map `b h w c` as `b h w/factor factor*c`; `shape` is that of the plain map.

    Attributes:
      data: the unwrap array.
      factor: how many pixels share the channels.
      factors: by width: factors of the maps that convolutions and upsampling make of this one.
        Where a width is missing, they keep `factor`.
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
        """Dtype of the unwrap array."""
        return self.data.dtype

    def factor_at(self, width: int) -> int:
        """Returns the factor of a map of this width that a layer makes of this one."""
        return self.factors.get(width, self.factor)

    def __add__(self, other: "Packed") -> "Packed":
        if self.factor != other.factor:
            raise ValueError(f"maps packed by {self.factor} and {other.factor} cannot be added")
        return replace(self, data=self.data + other.data)


FeatureMap = TypeVar("FeatureMap", bound=Array | Packed)
"""An array or a packed map: layers return the kind of map that they are given."""


def pack(x: Array | Packed, factors: Mapping[int, int]) -> Array | Packed:
    """Packs `b h w c` by `factors[w]`; no factors leave it plain.

    Args:
      x: the plain map. A packed one is unwrap as before; only layers that read it pack anew.
      factors: by width, of this map and of those that layers make of it.
    """
    if isinstance(x, Packed):
        return replace(x, factors=FrozenDict(factors))
    return _packed(x, factors[x.shape[2]], FrozenDict(factors)) if factors else x


def pack_like(x: Array, like: FeatureMap) -> FeatureMap:
    """Packs `b h w c` as another map of its width is; a plain one leaves it plain."""
    result: Any = _packed(x, like.factor, like.factors) if isinstance(like, Packed) else x
    return result


def _packed(x: Array, factor: int, factors: Mapping[int, int]) -> Packed:
    batch, height, width, channels = x.shape
    shape = batch, height, width // factor, factor * channels
    return Packed(x.reshape(shape) if factor > 1 else x, factor, factors)


def unpack(x: Array | Packed) -> Array:
    """Returns the plain map `b h w c`."""
    data, factor = unwrap(x)
    return data.reshape(x.shape) if factor > 1 else data


def unwrap(x: Array | Packed) -> tuple[Array, int]:
    """Returns the unwrap array of a map and its factor, 1 for a plain map."""
    return (x.data, x.factor) if isinstance(x, Packed) else (x, 1)


def wrap_like(data: Array, like: FeatureMap, factor: int | None = None) -> FeatureMap:
    """Returns `data` as a map of the kind of another one, packed by `factor` or as that one is."""
    result: Any = data
    if isinstance(like, Packed):
        result = replace(like, data=data, factor=factor or like.factor)
    return result


def tile(vector: Array, by: int) -> Array:
    """A vector over channels `c` as one over packed channels `by*c`."""
    return vector if by == 1 else jnp.tile(vector, by)


def fold(vector: Array, by: int) -> Array:
    """Sums a vector over packed channels `by*c` to `c`: the transpose of `tile`."""
    return vector if by == 1 else vector.reshape(by, -1).sum(0)


def pack_factors(widths: Sequence[int], lanes: int = LANES) -> tuple[int, ...]:
    """How to pack the branches of a network, the highest resolution first.

    Args:
      widths: channels of the branches; each has half the resolution of the one before.
      lanes: to fill; 0 packs nothing.

    Returns:
      A power of two for each: the largest that stays within the lanes and no more than twice the
      next one's, so that a convolution of stride 2 leads from each packing to the next.
    """
    packs: list[int] = []
    for width in reversed(widths):
        most = 1 << max((lanes // width).bit_length() - 1, 0)
        packs.insert(0, min(most, 2 * packs[0]) if packs else most)
    return tuple(packs)


def packed_kernel(
    kernel: Array, stride: int, dilation: int, pack: int, out_pack: int
) -> tuple[Array, int, tuple[int, int]]:
    """A kernel that does to packed maps what `kernel` does to plain ones.

    Args:
      kernel: `kh kw c features`, padded by `dilation * (kw // 2)`.
      stride: of the convolution.
      dilation: of the convolution, along the width.
      pack: of the input.
      out_pack: of the output; `out_pack * stride` is a multiple of `pack`.

    Returns:
      The kernel `kh K pack*c out_pack*features`, its stride along the packed width, and how far it
      reaches to the left and the right of the pixel above it. It has no dilation of its own along
      the width.

    Raises:
      ValueError: the two packings do not fit.
    """
    if out_pack * stride % pack:
        raise ValueError(
            f"a convolution of stride {stride} cannot lead from a packing of {pack} to {out_pack}"
        )
    height, width, channels, features = kernel.shape
    taps, reach = _taps(width, stride, dilation, pack, out_pack)
    # One tap at most meets each place, so the products are the kernel's own numbers.
    placed = jnp.einsum(
        "eqrk,hkio->heqiro",
        jnp.asarray(taps, kernel.dtype),
        kernel,
        precision=jax.lax.Precision.HIGHEST,
    )
    shape = (height, taps.shape[0], pack * channels, out_pack * features)
    return placed.reshape(shape), stride * out_pack // pack, reach


@lru_cache
def _taps(
    width: int, stride: int, dilation: int, pack: int, out_pack: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Which tap joins which pixel of which packed input pixel to which output: `e q r k`."""
    places = stride * np.arange(out_pack)[:, None] + dilation * (np.arange(width) - width // 2)
    cells, slots = places // pack, places % pack
    left, right = -cells.min(), cells.max()
    taps = np.zeros((left + right + 1, pack, out_pack, width), np.float32)
    for r in range(out_pack):
        for k in range(width):
            taps[cells[r, k] + left, slots[r, k], r, k] = 1
    return taps, (int(left), int(right))


def upsample(x: Packed, factor: int, method: str = "bilinear") -> Packed:
    """Upsamples a packed map by an integer, as `resize` does a plain one.

    One transposed convolution, whose kernel holds the weights of the interpolation: the map stays
    in the layout that the convolutions around it have.

    Args:
      x: the map.
      factor: of both sides; a power of two.
      method: "bilinear" (half-pixel centers) or "nearest".
    """
    if factor == 1 and x.factor == x.factor_at(x.shape[2]):
        return x
    same = np.eye(x.shape[-1])
    precision = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return project_and_upsample(x, same, factor, method=method, precision=precision)


def project_and_upsample(
    x: Packed,
    kernel: Array | np.ndarray,
    factor: int,
    *,
    method: str = "bilinear",
    precision: jax.lax.Precision | None = None,
) -> Packed:
    """Upsamples a packed map and convolves it 1x1, which commute: one transposed convolution.

    Args:
      x: the map.
      kernel: `c features`.
      factor: of both sides; a power of two.
      method: "bilinear" (half-pixel centers) or "nearest".
      precision: of the products.
    """
    pack, out_pack = x.factor, x.factor_at(x.shape[2] * factor)
    _, height, width, lanes = x.data.shape
    rows, row_pad = _weights(factor, 1, 1, method)
    columns, column_pad = _weights(factor, pack, out_pack, method)
    features = kernel.shape[1]
    shape = (len(rows), len(columns), lanes, out_pack * features)
    spread = np.einsum("a,eqr->aeqr", rows[:, 0, 0], columns)
    if isinstance(kernel, np.ndarray):
        placed = np.einsum("aeqr,ij->aeqirj", spread, kernel)
    else:
        placed = jnp.einsum(
            "aeqr,ij->aeqirj",
            jnp.asarray(spread, kernel.dtype),
            kernel,
            precision=jax.lax.Precision.HIGHEST,
        )
    steps = (factor, factor * pack // out_pack)
    sizes = height * factor, width * factor * pack // out_pack
    pads = [
        (low, size - 1 + len(taps) - low - (step * (side - 1) + 1))
        for low, taps, size, side, step in zip(
            (row_pad, column_pad), (rows, columns), sizes, (height, width), steps, strict=True
        )
    ]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = jax.lax.conv_general_dilated(
        x.data,
        jnp.asarray(placed.reshape(shape), x.dtype),
        window_strides=(1, 1),
        padding=pads,
        lhs_dilation=steps,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    ).astype(wide)
    # At the border the weights that fall outside are shared out among those inside.
    down = _border(height, factor, method)[None, :, None, None]
    across = np.repeat(
        _border(width * pack, factor, method).reshape(1, 1, -1, out_pack), features, 3
    )
    y = (y * jnp.asarray(down, wide) * jnp.asarray(across, wide)).astype(x.dtype)
    return wrap_like(y, x, out_pack)


def _weight(distance: np.ndarray, method: str) -> np.ndarray:
    """What an output pixel takes of an input pixel so far from it, in input pixels."""
    if method == "nearest":
        return (np.abs(distance) < 0.5).astype(float)
    return np.maximum(0, 1 - np.abs(distance))


@lru_cache
def _weights(factor: int, pack: int, out_pack: int, method: str) -> tuple[np.ndarray, int]:
    """Kernel `e q r` along one side of a transposed convolution, and its padding before."""
    step = factor * pack // out_pack
    reach = math.ceil(2 * factor / out_pack) + step
    # Y - step * X, of an output pixel Y and the input pixel X that it takes from
    offsets = np.arange(-reach, reach + 1)
    q, r = np.arange(pack), np.arange(out_pack)
    center = (out_pack * offsets[:, None, None] + r + 0.5) / factor - 0.5
    weights = _weight(center - q[:, None], method)
    used = np.flatnonzero(weights.any((1, 2)))
    first, last = used[0], used[-1]
    # Position t of the kernel meets step * X = Y + t - padding: the offsets run backwards.
    return weights[first : last + 1][::-1], int(offsets[last])


@lru_cache
def _border(side: int, factor: int, method: str) -> np.ndarray:
    """One over the sum of the weights that fall inside, for each output pixel."""
    center = (np.arange(side * factor) + 0.5) / factor - 0.5
    near = np.floor(center)[:, None] + np.arange(2)
    inside = (near >= 0) & (near < side)
    return 1 / (_weight(center[:, None] - near, method) * inside).sum(1)
