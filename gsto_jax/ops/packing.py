"""Pixels side by side in the channels, so that narrow maps fill the lanes of a TPU.

A TPU computes on 128 lanes and pads the channels of a map to them: 18 channels cost what 128 do.
Packed by p, a map `b h w c` is `b h w/p p*c`: p neighbours of a row lie one behind the other in the
channels. What this module makes of kernels and vectors lets convolution, BN and upsampling act on
packed maps as they do on plain ones; only zeros are added to the sums.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LANES = 128
"""Of a TPU: the channels that cost no more than one."""


def pack(x: Array, by: int) -> Array:
    """`b h w c` -> `b h w/by by*c`; `by` divides the width."""
    if by == 1:
        return x
    batch, height, width, channels = x.shape
    return x.reshape(batch, height, width // by, by * channels)


def unpack(x: Array, by: int) -> Array:
    """`b h w by*c` -> `b h w*by c`, the inverse of `pack`."""
    if by == 1:
        return x
    batch, height, width, channels = x.shape
    return x.reshape(batch, height, width * by, channels // by)


def hints(*packs: int) -> tuple[int, ...]:
    """The packings as further arguments of a layer; none for plain maps, which any layer takes."""
    return packs if max(packs) > 1 else ()


def tile(vector: Array, by: int) -> Array:
    """A vector over channels `c` as one over packed channels `by*c`."""
    return vector if by == 1 else jnp.tile(vector, by)


def fold(vector: Array, by: int) -> Array:
    """Sums a vector over packed channels `by*c` to `c`: the transpose of `tile`."""
    return vector if by == 1 else vector.reshape(by, -1).sum(0)


def packs_of(widths: Sequence[int], lanes: int = LANES) -> tuple[int, ...]:
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


def upsample(
    x: Array, factor: int, pack: int = 1, out_pack: int = 1, method: str = "bilinear"
) -> Array:
    """Enlarges a packed map by an integer, as `resize` does a plain one.

    One transposed convolution, whose kernel holds the weights of the interpolation: the map stays
    in the layout that the convolutions around it have.

    Args:
      x: `b h w pack*c`.
      factor: of both sides; a power of two.
      pack: of `x`.
      out_pack: of the result, a divisor of `factor * pack`.
      method: "bilinear" (half-pixel centres) or "nearest".

    Returns:
      `b h*factor W out_pack*c` in the dtype of `x`.
    """
    if factor == 1 and pack == out_pack:
        return x
    same = np.eye(x.shape[-1] // pack)
    precision = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return project_and_upsample(x, same, factor, pack, out_pack, method, precision)


def project_and_upsample(
    x: Array,
    kernel: Array | np.ndarray,
    factor: int,
    pack: int = 1,
    out_pack: int = 1,
    method: str = "bilinear",
    precision: jax.lax.Precision | None = None,
) -> Array:
    """Enlarges a packed map and convolves it 1x1, which commute: one transposed convolution.

    Args:
      x: `b h w pack*c`.
      kernel: `c features`.
      factor: of both sides; a power of two.
      pack: of `x`.
      out_pack: of the result, a divisor of `factor * pack`.
      method: "bilinear" (half-pixel centres) or "nearest".
      precision: of the products.

    Returns:
      `b h*factor W out_pack*features` in the dtype of `x`.
    """
    _, height, width, lanes = x.shape
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
        x,
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
    return (y * jnp.asarray(down, wide) * jnp.asarray(across, wide)).astype(x.dtype)


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
    centre = (out_pack * offsets[:, None, None] + r + 0.5) / factor - 0.5
    weights = _weight(centre - q[:, None], method)
    used = np.flatnonzero(weights.any((1, 2)))
    first, last = used[0], used[-1]
    # Position t of the kernel meets step * X = Y + t - padding: the offsets run backwards.
    return weights[first : last + 1][::-1], int(offsets[last])


@lru_cache
def _border(side: int, factor: int, method: str) -> np.ndarray:
    """One over the sum of the weights that fall inside, for each output pixel."""
    centre = (np.arange(side * factor) + 0.5) / factor - 0.5
    near = np.floor(centre)[:, None] + np.arange(2)
    inside = (near >= 0) & (near < side)
    return 1 / (_weight(centre[:, None] - near, method) * inside).sum(1)
