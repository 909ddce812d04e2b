"""Photometric augmentation and cutout, computed on the device as part of the train step.

The data pipeline draws a seed for each example, so that an image gets the same augmentation on any
number of devices and hosts, and in a resumed run.
"""

import math
from collections.abc import Sequence
from functools import partial

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real, UInt32

from gsto_jax.config import AugmentConfig
from gsto_jax.errors import UserError

_MIN_SIGMA = 0.01
"""Standard deviation in pixels of a blur that changes nothing in float32, without dividing by 0."""


def augment(
    images: Real[Array, "b h w c"],
    seeds: UInt32[Array, " b"],
    config: AugmentConfig,
    mean: Sequence[float],
) -> Float[Array, "b h w c"]:
    """Changes brightness, contrast, saturation, hue, gamma and sharpness, and erases a square.

    The changes are made in this order, each with a strength that is uniform in the range of its
    option (of gamma, its logarithm is). An option of 0 adds nothing to the program. Contrast is
    relative to `mean`.

    Args:
      images: pixels in 0..255.
      seeds: a seed for each image.
      config: ranges of the changes.
      mean: mean of the pixels in each channel, 0 to 1: the color of erased squares.

    Returns:
      float32 pixels in 0..255.

    Raises:
      UserError: saturation or hue of images that are not RGB.
    """
    check_augment(config, images.shape[-1])
    color = jnp.asarray(mean, jnp.float32)[None, None]
    pixels = images.astype(jnp.float32) / 255
    return 255 * jax.vmap(partial(_augment_image, config=config, mean=color))(pixels, seeds)


def check_augment(config: AugmentConfig, channels: int) -> None:
    """Raises UserError for saturation or hue of images that are not RGB."""
    for name in ("saturation", "hue"):
        if getattr(config, name) and channels != 3:
            raise UserError(
                f"config.augment.{name} must be 0 for images of {channels} channels; got "
                f"{getattr(config, name)}. Only RGB images have a {name}"
            )


def _augment_image(
    image: Float[Array, "h w c"],
    seed: UInt32[Array, ""],
    *,
    config: AugmentConfig,
    mean: Float[Array, "1 1 c"],
) -> Float[Array, "h w c"]:
    # One number for each option, so that none depends on which others are on.
    uniform = jax.random.uniform(jax.random.key(seed), (9,), image.dtype)
    signed = 2 * uniform - 1
    if config.brightness:
        image = dm_pix.adjust_brightness(image, config.brightness * signed[0])
    if config.contrast:
        image = mean + (1 + config.contrast * signed[1]) * (image - mean)
    image = image.clip(0, 1)
    if config.saturation:
        image = dm_pix.adjust_saturation(image, 1 + config.saturation * signed[2]).clip(0, 1)
    if config.hue:
        image = dm_pix.adjust_hue(image, config.hue * signed[3]).clip(0, 1)
    if config.gamma:
        exponent = jnp.exp(math.log1p(config.gamma) * signed[4])
        image = dm_pix.adjust_gamma(image, exponent)
    if config.blur:
        sigma = jnp.maximum(config.blur * uniform[5], _MIN_SIGMA)
        radius = math.ceil(3 * config.blur)
        padded = jnp.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
        image = dm_pix.gaussian_blur(padded, sigma, 2 * radius + 1, padding="VALID")
    if config.cutout:
        image = _erase(image, config.cutout * uniform[6], uniform[7:9], mean)
    return image


def _erase(
    image: Float[Array, "h w c"],
    fraction: Float[Array, ""],
    position: Float[Array, " 2"],
    mean: Float[Array, "1 1 c"],
) -> Float[Array, "h w c"]:
    """Fills a square inside the image with the mean color.

    Args:
      image: the image.
      fraction: side of the square as a fraction of the shorter side.
      position: row and column of the square, 0 (top, left) to 1.
      mean: the color.
    """
    height, width = image.shape[:2]
    side = jnp.floor(fraction * min(height, width))
    inside = []
    for axis, length in enumerate((height, width)):
        start = jnp.floor(position[axis] * (length - side + 1))
        index = jnp.arange(length)
        inside.append((index >= start) & (index < start + side))
    return jnp.where((inside[0][:, None] & inside[1][None])[..., None], mean, image)
