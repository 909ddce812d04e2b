"""Encoding of joints to heatmaps and decoding of heatmaps, on the device.

A joint is encoded as a Gaussian with peak 1 at its pixel. Decoding takes the pixel with the maximum
and refines it to subpixel accuracy from its neighbors.

With `udp` (unbiased data processing, Huang et al. 2020) a heatmap pixel is (W - 1) / (w - 1) input
pixels wide, so that the outermost pixels of both coincide, and Gaussians are centered at joints.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from gsto_jax.ops.flip import flip, flip_permutation
from gsto_jax.ops.floating import as_floating
from gsto_jax.types import Size

REFINEMENTS = ("none", "quarter", "dark")


def encode(
    joints: Float[Array, "b j 2"],
    visible: Float[Array, "b j"],
    image: Size,
    heatmap: Size,
    sigma: float,
    udp: bool = False,
) -> tuple[Float[Array, "b h w j"], Float[Array, "b j"]]:
    """Encodes joints as heatmaps.

    Args:
      joints: x and y in pixels of the network's input.
      visible: above 0 for labeled joints.
      image: (h, w) of the input.
      heatmap: (h, w) of the heatmaps.
      sigma: standard deviation of the Gaussians in heatmap pixels, cut off at three sigmas.
      udp: see the module's description.

    Returns:
      Heatmaps, float32, 0 for unlabeled joints; and weights, float32: 1 for labeled joints within
      three sigmas of a heatmap pixel, else 0.
    """
    sides = ((image[1], heatmap[1]), (image[0], heatmap[0]))
    stride = jnp.asarray([(a - udp) / (b - udp) for a, b in sides], jnp.float32)
    center = jnp.trunc(joints / stride[None, None] + 0.5)  # toward zero, as published
    peak = joints / stride[None, None] if udp else center
    reach = 3 * sigma
    limit = jnp.asarray([heatmap[1], heatmap[0]], jnp.float32)[None, None]
    inside = ((center - reach < limit) & (center + reach + 1 >= 0)).all(-1)
    weight = (inside & (visible > 0)).astype(jnp.float32)

    def along(length: int, axis: int) -> tuple[Array, Array]:
        pixels = jnp.arange(length, dtype=jnp.float32)[None, :, None]
        offset = pixels - peak[:, None, :, axis]
        is_near = jnp.abs(pixels - center[:, None, :, axis]) <= reach
        return jnp.exp(-jnp.square(offset) / (2 * sigma**2)), is_near

    (rows, near_rows), (columns, near_columns) = along(heatmap[0], 1), along(heatmap[1], 0)
    near = near_rows[:, :, None] & near_columns[:, None] & (weight > 0.5)[:, None, None]
    return jnp.where(near, rows[:, :, None] * columns[:, None], 0), weight


def decode(
    heatmaps: Float[Array, "b h w j"], refinement: str = "quarter", sigma: float = 2.0
) -> tuple[Float[Array, "b j 2"], Float[Array, "b j"]]:
    """Decodes heatmaps to joints.

    Args:
      heatmaps: output of the network.
      refinement: "none"; "quarter", a quarter pixel toward the larger neighbor, as in the paper; or
        "dark", the maximum of a quadratic fit to the logarithm of the smoothed map.
      sigma: standard deviation of the encoding, for "dark".

    Returns:
      x and y in heatmap pixels, float32, 0 if no value is positive; and the maximum values.

    Raises:
      ValueError: an unknown refinement.
    """
    if refinement not in REFINEMENTS:
        choices = ", ".join(REFINEMENTS)
        raise ValueError(f"refinement must be one of {choices}; got {refinement!r}")
    heatmaps = as_floating(heatmaps)
    batch, height, width, count = heatmaps.shape
    flat = heatmaps.reshape(batch, height * width, count)
    best, value = flat.argmax(1), flat.max(1)
    is_positive = (value > 0)[..., None]
    pixel = jnp.where(is_positive, jnp.stack([best % width, best // width], -1), 0)
    if refinement == "none":
        return pixel.astype(jnp.float32), value
    x, y = pixel[..., 0], pixel[..., 1]
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    maps = _smoothed_log(heatmaps, sigma) if refinement == "dark" else heatmaps

    def at(dx: int, dy: int) -> Array:
        rows, columns = jnp.clip(y + dy, 0, height - 1), jnp.clip(x + dx, 0, width - 1)
        index = (rows * width + columns)[:, None]
        return jnp.take_along_axis(maps.reshape(flat.shape), index, 1)[:, 0]

    slope = jnp.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], -1)
    if refinement == "quarter":
        # For a joint at the pixel center the neighbors differ only by rounding.
        shift = 0.25 * jnp.where(jnp.abs(slope) > 1e-6 * value[..., None], jnp.sign(slope), 0)
    else:
        # One Newton step, with the Hessian by finite differences.
        slope, d_xy = slope / 2, (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
        d_xx, d_yy = ((at(n, 1 - n) - 2 * at(0, 0) + at(-n, n - 1)) for n in (1, 0))
        determinant = d_xx * d_yy - d_xy**2
        d_x, d_y = slope[..., 0], slope[..., 1]
        step = jnp.stack([d_xy * d_y - d_yy * d_x, d_xy * d_x - d_xx * d_y], -1)
        shift = step / jnp.where(determinant == 0, 1, determinant)[..., None]
        is_maximum = (determinant > 0) & (d_xx < 0)
        shift = jnp.where(is_maximum[..., None], jnp.clip(shift, -1, 1), 0)
    return pixel + jnp.where(inner[..., None] & is_positive, shift, 0).astype(jnp.float32), value


def merge_flipped(
    heatmaps: Float[Array, "b h w j"],
    flipped: Float[Array, "b h w j"],
    pairs: Sequence[Sequence[int]],
    shift: bool = True,
) -> Float[Array, "b h w j"]:
    """Averages heatmaps of an image and of the flipped image, where pairs of joints are swapped.

    `shift` moves the flipped heatmaps one column to the right, as published, since the pixel grids
    of an image and its flip do not align at the output stride.
    """
    heatmaps, flipped = as_floating(heatmaps), as_floating(flipped)
    aligned = flip(flipped)[..., flip_permutation(pairs, heatmaps.shape[-1])]
    if shift:
        aligned = jnp.concatenate([aligned[:, :, :1], aligned[:, :, :-1]], axis=2)
    return (heatmaps + aligned) / 2


def to_image(
    joints: Float[Array, "b j 2"],
    center: Float[Array, "b 2"],
    frame: Float[Array, "b 2"],
    heatmap: Size,
    udp: bool = False,
) -> Float[Array, "b j 2"]:
    """Maps joints from heatmap pixels to image pixels.

    Args:
      joints: x and y in heatmap pixels.
      center: (x, y) of the cropped frame in the image.
      frame: (width, height) of the cropped frame.
      heatmap: (h, w).
      udp: see the module's description.
    """
    if udp:
        last = jnp.asarray([heatmap[1] - 1, heatmap[0] - 1], jnp.float32)[None]
        return joints * (frame / last)[:, None] + (center - frame / 2)[:, None]
    middle = jnp.asarray([heatmap[1] / 2, heatmap[0] / 2], jnp.float32)[None, None]
    factor = (frame[:, 0] / heatmap[1])[:, None, None]  # for both axes, as published
    return (joints - middle) * factor + center[:, None]


def _smoothed_log(heatmaps: Array, sigma: float) -> Array:
    """Computes the logarithm of Gaussian-smoothed heatmaps, rescaled to their maxima."""
    reach = int(3 * sigma + 0.5)
    gauss = np.exp(-np.square(np.arange(-reach, reach + 1)) / (2 * sigma**2))
    taps = (gauss / gauss.sum()).tolist()

    def along(x: Array, axis: int) -> Array:
        pad = [(reach, reach) if n == axis else (0, 0) for n in range(4)]
        padded = jnp.pad(x, pad)
        length = x.shape[axis]
        return sum(
            tap * jax.lax.slice_in_dim(padded, n, n + length, axis=axis)
            for n, tap in enumerate(taps)
        )

    smooth = along(along(heatmaps, 1), 2)
    peak = heatmaps.max((1, 2), keepdims=True) / jnp.maximum(
        smooth.max((1, 2), keepdims=True), 1e-10
    )
    return jnp.log(jnp.maximum(smooth * peak, 1e-10))
