"""Joints to heatmaps and back, on the device: the encoding and decoding of pose networks.

A joint becomes a Gaussian of peak 1 around the pixel of the heatmap that it falls into. Back, the
largest value gives the pixel, and its neighbors which way the joint lies off the pixel's center.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gsto_jax.ops.flip import flip, flip_permutation
from gsto_jax.ops.floating import as_floating
from gsto_jax.types import Size

REFINEMENTS = ("none", "quarter", "dark")


def encode(
    joints: Array, visible: Array, image: Size, heatmap: Size, sigma: float
) -> tuple[Array, Array]:
    """Heatmaps of joints.

    Args:
      joints: `b j 2`, x and y in pixels of the network's input.
      visible: `b j`, above 0 for a labeled joint.
      image: (h, w) of the input.
      heatmap: (h, w) of the heatmaps.
      sigma: deviation of the Gaussians in pixels of the heatmap; beyond three of them all is 0.

    Returns:
      `b h w j` float32, 0 for joints that are not labeled; and their weights `b j` float32: 1 for
      labeled joints, but 0 where no pixel of the heatmap lies within three sigmas.
    """
    stride = jnp.asarray([image[1] / heatmap[1], image[0] / heatmap[0]], jnp.float32)
    center = jnp.trunc(joints / stride[None, None] + 0.5)  # towards zero, as published
    reach = 3 * sigma
    limit = jnp.asarray([heatmap[1], heatmap[0]], jnp.float32)[None, None]
    inside = ((center - reach < limit) & (center + reach + 1 >= 0)).all(-1)
    weight = (inside & (visible > 0)).astype(jnp.float32)  # of 2 as of 1, of -1 as of 0

    def along(length: int, axis: int) -> tuple[Array, Array]:
        offset = jnp.arange(length, dtype=jnp.float32)[None, :, None] - center[:, None, :, axis]
        return jnp.exp(-jnp.square(offset) / (2 * sigma**2)), jnp.abs(offset) <= reach

    (rows, near_rows), (columns, near_columns) = along(heatmap[0], 1), along(heatmap[1], 0)
    near = near_rows[:, :, None] & near_columns[:, None] & (weight > 0.5)[:, None, None]
    return jnp.where(near, rows[:, :, None] * columns[:, None], 0), weight


def decode(heatmaps: Array, refinement: str = "quarter", sigma: float = 2.0) -> tuple[Array, Array]:
    """Joints of heatmaps.

    Args:
      heatmaps: `b h w j`.
      refinement: "none", "quarter" (a quarter of a pixel towards the larger neighbor; the paper's)
        or "dark" (the peak of a parabola through the logarithm of the smoothed map).
      sigma: of the encoding, for "dark".

    Returns:
      `b j 2` float32, x and y in pixels of the heatmap, 0 where no value is positive; and the
      largest values, `b j`.

    Raises:
      ValueError: an unknown refinement.
    """
    if refinement not in REFINEMENTS:
        raise ValueError(f"refinement is {refinement!r}: use one of {', '.join(REFINEMENTS)}")
    heatmaps = as_floating(heatmaps)
    batch, height, width, count = heatmaps.shape
    flat = heatmaps.reshape(batch, height * width, count)
    best, value = flat.argmax(1), flat.max(1)
    found = (value > 0)[..., None]
    place = jnp.where(found, jnp.stack([best % width, best // width], -1), 0)
    if refinement == "none":
        return place.astype(jnp.float32), value
    x, y = place[..., 0], place[..., 1]
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    maps = _smoothed_log(heatmaps, sigma) if refinement == "dark" else heatmaps

    def at(dx: int, dy: int) -> Array:
        rows, columns = jnp.clip(y + dy, 0, height - 1), jnp.clip(x + dx, 0, width - 1)
        index = (rows * width + columns)[:, None]
        return jnp.take_along_axis(maps.reshape(flat.shape), index, 1)[:, 0]

    slope = jnp.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], -1)
    if refinement == "quarter":
        # Of a joint in a pixel's middle both neighbors are the same, but for rounding.
        shift = 0.25 * jnp.where(jnp.abs(slope) > 1e-6 * value[..., None], jnp.sign(slope), 0)
    else:
        slope, across = slope / 2, (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
        bend_x, bend_y = ((at(n, 1 - n) - 2 * at(0, 0) + at(-n, n - 1)) for n in (1, 0))
        determinant = bend_x * bend_y - across**2
        shift = (
            jnp.stack(
                [
                    across * slope[..., 1] - bend_y * slope[..., 0],
                    across * slope[..., 0] - bend_x * slope[..., 1],
                ],
                -1,
            )
            / jnp.where(determinant == 0, 1, determinant)[..., None]
        )
        peak = (determinant > 0) & (bend_x < 0)
        shift = jnp.where(peak[..., None], jnp.clip(shift, -1, 1), 0)
    return place + jnp.where(inner[..., None] & found, shift, 0).astype(jnp.float32), value


def merge_flipped(
    heatmaps: Array, mirrored: Array, pairs: Sequence[Sequence[int]], shift: bool = True
) -> Array:
    """The mean of heatmaps and of those of the mirror image.

    Args:
      heatmaps: `b h w j` of the image.
      mirrored: the same of its mirror image.
      pairs: joints that change places in it.
      shift: moves the second one column to the right: the grids of an image and its mirror image
        do not meet where the network rounds sizes (the published test does so).
    """
    heatmaps, mirrored = as_floating(heatmaps), as_floating(mirrored)
    back = flip(mirrored)[..., flip_permutation(pairs, heatmaps.shape[-1])]
    if shift:
        back = jnp.concatenate([back[:, :, :1], back[:, :, :-1]], axis=2)
    return (heatmaps + back) / 2


def to_image(joints: Array, center: Array, frame: Array, heatmap: Size) -> Array:
    """Moves joints from the heatmap into the image.

    Args:
      joints: `b j 2`, x and y in pixels of the heatmap.
      center: `b 2`, x and y of the frame's center in the image.
      frame: `b 2`, width and height of the frame that the network saw.
      heatmap: (h, w).

    Returns:
      `b j 2`, x and y in pixels of the image.
    """
    middle = jnp.asarray([heatmap[1] / 2, heatmap[0] / 2], jnp.float32)[None, None]
    factor = (frame[:, 0] / heatmap[1])[:, None, None]  # of both axes, as published
    return (joints - middle) * factor + center[:, None]


def _smoothed_log(heatmaps: Array, sigma: float) -> Array:
    """The logarithm of the maps after a Gaussian of the encoding's width, each to its old peak."""
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
