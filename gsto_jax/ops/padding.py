"""The padding next to an image."""

import jax
import jax.numpy as jnp
from jax import Array


def replicate_edges(images: Array, size: Array) -> Array:
    """Fills the padding to the right of and below images by their outermost pixels.

    Args:
      images: padded images `b h w c`.
      size: `b 2` integers, height and width of each image without its padding.
    """

    def fill(image: Array, size: Array) -> Array:
        rows, columns = (
            jnp.minimum(jnp.arange(side), size[n] - 1) for n, side in enumerate(image.shape[:2])
        )
        return jnp.take(jnp.take(image, rows, 0), columns, 1)

    return jax.vmap(fill)(images, size)
