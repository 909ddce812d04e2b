"""The exported program of a classification network: class probabilities of images of any size.

It computes what `gsto_jax.predict.classification.ClassPredictor` does: it resizes the box at the
center of each image to the size of the network's input, and predicts, also the flipped crop with
`eval.flip`. Resampling weights are computed in the program, since h and w may be symbols.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt8

from gsto_jax.classification.task import ClassificationTask, probability_step
from gsto_jax.ops.flip import flip
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.predict.program_source import ArraySpec, ProgramSource
from gsto_jax.types import Size


def class_source(predictor: ClassPredictor) -> ProgramSource:
    """Returns the function to export."""
    task = predictor.task
    return ProgramSource(
        make_class_program(predictor),
        inputs={"image": ArraySpec(("b", "h", "w", task.in_channels), "uint8")},
        outputs={"probabilities": ArraySpec(("b", task.num_classes), "float32")},
    )


def make_class_program(predictor: ClassPredictor) -> Callable[[Array], dict[str, Array]]:
    """Returns the function to export: images `b h w c` uint8 to "probabilities"."""
    task, variables = predictor.task, jax.device_get(predictor.trained.variables)
    data = predictor.config["data"]
    size, fraction = tuple(data["crop"]), data["image_crops"]["center"]
    return lambda images: predict_classes(task, variables, size, fraction, images)


def predict_classes(
    task: ClassificationTask,
    variables: Any,
    size: Size,
    fraction: float,
    images: UInt8[Array, "b h w c"],
) -> dict[str, Array]:
    """Predicts the classes of images.

    Args:
      task: trained task.
      variables: variables of the network.
      size: (h, w) of the network's input.
      fraction: size of the box relative to the largest, as of `gsto_jax.image_files.center_box`.
      images: pixels; h and w may be symbols.

    Returns:
      "probabilities" `b k` float32.
    """
    crops = center_crop(images, size, fraction)
    probabilities, _ = probability_step(task, variables, crops)
    if task.config.eval.flip:
        flipped, _ = probability_step(task, variables, flip(crops))
        probabilities = (probabilities + flipped) / 2
    return {"probabilities": probabilities.astype(jnp.float32)}


def center_crop(
    images: UInt8[Array, "b h w c"], size: Size, fraction: float
) -> Float[Array, "b h2 w2 c"]:
    """Resizes the box at the center of images, as `gsto_jax.image_files.crop_pixels`.

    Pillow rounds to uint8 after the horizontal and after the vertical pass. Its weights are fixed
    point and these float32, so values halfway between two of 255 levels may round differently.
    """
    height, width = (jnp.asarray(side, jnp.int32) for side in images.shape[1:3])
    sides = height.astype(jnp.float32), width.astype(jnp.float32)
    scale = fraction * jnp.minimum(sides[0] / size[0], sides[1] / size[1])
    columns = _weights(images.shape[2], width, size[1], scale)
    rows = _weights(images.shape[1], height, size[0], scale)
    x = images.astype(jnp.float32)
    for equation, weights in (("tw,bhwc->bhtc", columns), ("th,bhwc->btwc", rows)):
        x = jnp.floor(jnp.einsum(equation, weights, x, precision="highest") + 0.5)
    return x


def _weights(length: Any, side: Array, count: int, scale: Array) -> Float[Array, "count length"]:
    """Returns the weights of `length` pixels in `count` resized ones: triangles of width 2 `scale`.

    Args:
      length: pixels of the image, which may be a symbol.
      side: `length` as an array.
      count: pixels of the result.
      scale: length of a pixel of the result in pixels of the image.
    """
    # Half pixels relative to the center of the image are exact.
    pixels = (2 * jnp.arange(length) + 1 - side).astype(jnp.float32) / 2
    centers = (jnp.arange(count, dtype=jnp.float32) + 0.5 - count / 2) * scale
    distance = jnp.abs(pixels[None] - centers[:, None]) / jnp.maximum(scale, 1)
    triangle = jnp.maximum(1 - distance, 0)
    return triangle / triangle.sum(1, keepdims=True)
