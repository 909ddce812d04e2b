"""Labels of images of any size by one pass through a network: the program that is exported.

It is what `gsto_jax.predict.segmentation.Predictor` does with a protocol of one pass, written so
that the sizes may be the symbols of `jax.export`: an image is scaled down to a limit, to the size
that the network was trained for, and padded; the scores are cut back and scaled up again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.ops.padding import downscaled_size, round_up, scaled_size
from gsto_jax.ops.resize import resize
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.segmentation.protocol import EvalProtocol
from gsto_jax.segmentation.task import logits
from gsto_jax.training.task import Task, normalize
from gsto_jax.types import Size


def single_pass_protocol(protocol: EvalProtocol) -> EvalProtocol:
    """Returns a test protocol without its scales, mirror image and windows."""
    return replace(protocol, scales=(1.0,), flip=False, window="whole", crop=(0, 0))


def make_program(predictor: Predictor) -> Callable[[Array], dict[str, Array]]:
    """Returns what is exported: from images `b h w 3` uint8 to "labels" and "logits"."""
    task, variables = predictor.task, jax.device_get(predictor.trained.variables)
    protocol, long_side = single_pass_protocol(predictor.protocol), predictor.long_side
    return lambda images: predict_single_pass(task, variables, protocol, long_side, images)


def predict_single_pass(
    task: Task, variables: Any, protocol: EvalProtocol, long_side: int, images: Array
) -> dict[str, Array]:
    """Labels images by one pass.

    Args:
      task: what was trained.
      variables: of the network.
      protocol: as `single_pass_protocol` returns it.
      long_side: limit of the long side, as that of `Predictor`; 0 for none.
      images: `b h w 3` uint8 RGB; h and w may be symbols.

    Returns:
      "labels" `b h w` uint8, and "logits" `b h' w' k` float32 of the padded image.
    """
    size = images.shape[1:3]
    small = downscaled_size(size, long_side)
    x = _area_resample(images.astype(jnp.float32), small)
    work = scaled_size(small, 1.0, protocol.base_size, protocol.fixed_size)
    found = logits(task, variables, _padded(task, protocol, _linear_resample(x, work)))

    shape = round_up(work, protocol.pad_to)
    corners = task.config.model.align_corners
    scores = _taken(resize(found, shape, "bilinear", corners), work)
    if protocol.base_size or any(protocol.fixed_size):
        scores = jnp.exp(scores) if protocol.score == "exp" else jax.nn.softmax(scores)
        scores = _linear_resample(scores, small)
    return {"labels": _best_class(scores, size), "logits": found}


def _padded(task: Task, protocol: EvalProtocol, images: Array) -> Array:
    """Normalizes images `b h w 3` and pads them right and below."""
    size = images.shape[1:3]
    shape = round_up(size, protocol.pad_to)
    if size == shape:
        return normalize(task, images)
    images = _taken(images, shape)
    rows, columns = (jnp.arange(b) < _value(a) for a, b in zip(size, shape, strict=True))
    inside = (rows[:, None] & columns[None])[None, :, :, None]
    if task.config.eval.pad == "mean":
        return jnp.where(inside, normalize(task, images), 0)
    if task.config.eval.pad == "black":
        images = jnp.where(inside, images, 0)
    return normalize(task, images)


def _taken(x: Array, size: Sequence[Any]) -> Array:
    """Cuts `b h w c` to a size, or repeats its last row and column up to it.

    By indices: slices and `jnp.pad` cannot be written as ONNX at sizes that are symbols.
    """
    for axis, (side, target) in enumerate(zip(x.shape[1:3], size, strict=True), 1):
        if side != target:
            places = jnp.minimum(jnp.arange(target), _value(side) - 1)
            x = jnp.take(x, places, axis, mode="clip")
    return x


def _area_resample(x: Array, size: Size) -> Array:
    """Scales `b h w c` down: each pixel is the mean of the area that it covers."""
    for axis, equation in ((1, "th,bhwc->btwc"), (2, "tw,bhwc->bhtc")):
        source, target = x.shape[axis], size[axis - 1]
        if source == target:
            continue
        old, new = jnp.arange(source)[None], jnp.arange(target)[:, None]
        # In units in which both kinds of pixels have whole borders.
        last = jnp.minimum((old + 1) * _value(target), (new + 1) * _value(source))
        first = jnp.maximum(old * _value(target), new * _value(source))
        overlap = jnp.maximum(last - first, 0).astype(x.dtype) / _value(source).astype(x.dtype)
        x = jnp.einsum(equation, overlap, x, precision="highest")
    return x


def _linear_resample(x: Array, size: Size) -> Array:
    """Resamples `b h w c` bilinearly, as `gsto_jax.ops.resample.linear_taps` says."""
    for axis in (1, 2):
        if x.shape[axis] != size[axis - 1]:
            x = _along(x, axis, _taps(x.shape[axis], size[axis - 1]))
    return x


def _taps(source: Any, target: Any) -> tuple[Array, Array]:
    """Returns for each output the lower of two neighboring inputs, and the weight of the upper."""
    # In integers, which are exact whatever the size.
    numerator = (2 * jnp.arange(target) + 1) * _value(source) - _value(target)
    numerator = jnp.minimum(jnp.maximum(numerator, 0), 2 * _value(target) * (_value(source) - 1))
    denominator = jnp.broadcast_to(2 * _value(target), numerator.shape)
    low = jax.lax.div(numerator, denominator)
    return low, (numerator - low * denominator).astype(jnp.float32) / denominator


def _along(x: Array, axis: int, taps: tuple[Array, Array]) -> Array:
    low, weight = taps
    weight = weight.reshape([-1 if n == axis else 1 for n in range(x.ndim)])
    high = jnp.minimum(low + 1, _value(x.shape[axis]) - 1)
    upper, lower = (jnp.take(x, places, axis, mode="clip") for places in (high, low))
    return lower * (1 - weight) + upper * weight


def _best_class(scores: Array, size: Sequence[Any]) -> Array:
    """Scales scores `b h w k` up and takes the best class of each pixel, `b size` uint8."""
    if scores.shape[1:3] == tuple(size):
        return scores.argmax(-1).astype(jnp.uint8)
    rows, columns = (_taps(a, b) for a, b in zip(scores.shape[1:3], size, strict=True))

    def plane(k: int) -> Array:
        return _along(_along(scores[..., k], 1, rows), 2, columns)

    # Class by class: scores of all classes of a large photo are gigabytes.
    best = plane(0)
    labels = jnp.zeros(best.shape, jnp.uint8)
    for k in range(1, scores.shape[3]):
        other = plane(k)
        larger = other > best
        labels, best = jnp.where(larger, jnp.uint8(k), labels), jnp.where(larger, other, best)
    return labels


def _value(side: Any) -> Array:
    """Returns a length, which may be a symbol, as an array."""
    return jnp.asarray(side, jnp.int32)
