"""The exported program: labels and logits of images of any size, by one pass of the network.

It computes what `gsto_jax.predict.segmentation.Predictor` does with a single-pass protocol, but
takes sizes that are symbols of `jax.export`: it downscales an image to a limit, resizes it to the
size of the test, pads it, and maps the scores back to the image. Resampling weights are computed in
the program, from the symbols; `gsto_jax.ops.resample` computes them on the host.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt8

from gsto_jax.ops.resize import resize
from gsto_jax.ops.sizes import downscaled_size, round_up, scaled_size
from gsto_jax.predict.program_source import ArraySpec, ProgramSource
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.segmentation.protocol import EvalProtocol
from gsto_jax.segmentation.task import logits
from gsto_jax.training.task import Task, normalize
from gsto_jax.types import Size


def single_pass_protocol(protocol: EvalProtocol) -> EvalProtocol:
    """Returns a test protocol without its scales, flip and windows."""
    return replace(protocol, scales=(1.0,), flip=False, window="whole", crop=(0, 0))


def segmentation_source(predictor: Predictor) -> ProgramSource:
    """Returns the function to export."""
    stride = predictor.task.config.model.output_stride
    logits_shape = ("b", f"ceil(H/{stride})", f"ceil(W/{stride})", predictor.task.num_classes)
    return ProgramSource(
        make_program(predictor),
        inputs={"image": ArraySpec(("b", "h", "w", predictor.task.in_channels), "uint8")},
        outputs={
            "labels": ArraySpec(("b", "h", "w"), "uint8"),
            "logits": ArraySpec(logits_shape, "float32"),
        },
    )


def make_program(predictor: Predictor) -> Callable[[Array], dict[str, Array]]:
    """Returns the function to export: images `b h w c` uint8 to "labels" and "logits"."""
    task, variables = predictor.task, jax.device_get(predictor.trained.variables)
    protocol, long_side = single_pass_protocol(predictor.protocol), predictor.long_side
    return lambda images: predict_single_pass(task, variables, protocol, long_side, images)


def predict_single_pass(
    task: Task,
    variables: Any,
    protocol: EvalProtocol,
    long_side: int,
    images: UInt8[Array, "b h w c"],
) -> dict[str, Array]:
    """Predicts labels by one pass.

    Args:
      task: trained task.
      variables: variables of the network.
      protocol: protocol from `single_pass_protocol`.
      long_side: limit of the long side, as of `Predictor`; 0 for none.
      images: pixels in 0..255; h and w may be symbols.

    Returns:
      "labels" `b h w` uint8, and "logits" `b h' w' k` float32 of the padded image.
    """
    size = images.shape[1:3]
    downscaled = downscaled_size(size, long_side)
    x = images.astype(jnp.float32)
    if downscaled != size:
        x = _choose(x, _area_resize(x, downscaled))
    test_size = scaled_size(downscaled, 1.0, protocol.base_size, protocol.fixed_size)
    outputs = logits(task, variables, _normalize_padded(task, protocol, _resize(x, test_size)))

    padded_shape = round_up(test_size, protocol.pad_to)
    align_corners = task.config.model.align_corners
    scores = crop_end(resize(outputs, padded_shape, "bilinear", align_corners), test_size)
    if protocol.base_size or any(protocol.fixed_size):
        scores = jnp.exp(scores) if protocol.score == "exp" else jax.nn.softmax(scores)
        scores = _resize(scores, downscaled)
    return {"labels": _best_class(scores, size), "logits": outputs}


def _normalize_padded(task: Task, protocol: EvalProtocol, images: Array) -> Array:
    """Pads images `b h w c` at the right and bottom, and normalizes them."""
    size = images.shape[1:3]
    padded_shape = round_up(size, protocol.pad_to)
    if size == padded_shape:
        return normalize(task, images)
    images = pad_end(images, padded_shape)
    rows, columns = (
        jnp.arange(padded) < _array(side) for side, padded in zip(size, padded_shape, strict=True)
    )
    inside = (rows[:, None] & columns[None])[None, :, :, None]
    if task.config.eval.pad == "mean":
        return jnp.where(inside, normalize(task, images), 0)
    if task.config.eval.pad == "black":
        images = jnp.where(inside, images, 0)
    return normalize(task, images)


# Exports to ONNX know the jitted functions by their names.


@partial(jax.jit, static_argnames="size")
def crop_end(x: Array, size: Size) -> Array:
    """Crops `b h w c` at the right and bottom."""
    return _by_index(x, size)


@partial(jax.jit, static_argnames="size")
def pad_end(x: Array, size: Size) -> Array:
    """Pads `b h w c` at the right and bottom by the last column and row."""
    return _by_index(x, size)


@jax.jit
def choose_by_size(unchanged: Array, resized: Array) -> Array:
    """Returns `resized`; ONNX programs return `unchanged` if both have the same size.

    They compute only the map that they return, since they do not know sizes before they run.
    """
    return resized


def _by_index(x: Array, size: Size) -> Array:
    """Crops, or repeats the last row and column, by indices, which may depend on symbols."""
    for axis, (side, target) in enumerate(zip(x.shape[1:3], size, strict=True), 1):
        if side != target:
            index = jnp.minimum(jnp.arange(target), _array(side) - 1)
            x = jnp.take(x, index, axis, mode="clip")
    return x


def _area_resize(x: Float[Array, "b h w c"], size: Size) -> Float[Array, "b h2 w2 c"]:
    """Downscales images: each output pixel is the mean of the area that it covers."""
    # All weights before the first product: an ONNX program would otherwise compute that product for
    # the width alone, also of images that are not resized.
    weights = [_area_weights(x.shape[axis], size[axis - 1], x.dtype) for axis in (1, 2)]
    for equation, weight in zip(("th,bhwc->btwc", "tw,bhwc->bhtc"), weights, strict=True):
        if weight is not None:
            x = jnp.einsum(equation, weight, x, precision="highest")
    return x


def _area_weights(source: Any, target: Any, dtype: Any) -> Float[Array, "target source"] | None:
    """Returns the share of each input in each output of a side; None if its length stays."""
    if source == target:
        return None
    old, new = jnp.arange(source)[None], jnp.arange(target)[:, None]
    # In units of 1 / (source * target) all pixel borders are integers.
    stop = jnp.minimum((old + 1) * _array(target), (new + 1) * _array(source))
    start = jnp.maximum(old * _array(target), new * _array(source))
    return jnp.maximum(stop - start, 0).astype(dtype) / _array(source).astype(dtype)


def _resize(x: Float[Array, "b h w c"], size: Size) -> Float[Array, "b h2 w2 c"]:
    """Resizes bilinearly, with the taps of `gsto_jax.ops.taps.linear_taps`."""
    for axis in (1, 2):
        if x.shape[axis] != size[axis - 1]:
            x = _interpolate(x, axis, _taps(x.shape[axis], size[axis - 1]))
    return x


def _taps(source: Any, target: Any) -> tuple[Array, Array]:
    """Returns for each output the lower of two adjacent inputs, and the weight of the upper."""
    # Integers are exact at any size.
    numerator = (2 * jnp.arange(target) + 1) * _array(source) - _array(target)
    numerator = jnp.minimum(jnp.maximum(numerator, 0), 2 * _array(target) * (_array(source) - 1))
    denominator = jnp.broadcast_to(2 * _array(target), numerator.shape)
    lower = jax.lax.div(numerator, denominator)
    return lower, (numerator - lower * denominator).astype(jnp.float32) / denominator


def _interpolate(x: Array, axis: int, taps: tuple[Array, Array]) -> Array:
    index, weight = taps
    weight = weight.reshape([-1 if n == axis else 1 for n in range(x.ndim)])
    next_index = jnp.minimum(index + 1, _array(x.shape[axis]) - 1)
    upper, lower = (jnp.take(x, indices, axis, mode="clip") for indices in (next_index, index))
    return lower * (1 - weight) + upper * weight


def _best_class(scores: Float[Array, "b h w k"], size: Sequence[Any]) -> UInt8[Array, "b h2 w2"]:
    """Upsamples scores and returns the best class of each pixel."""
    by_class = jnp.moveaxis(scores, -1, 1)  # as ONNX Runtime computes scores
    if scores.shape[1:3] == tuple(size):
        return by_class.argmax(1).astype(jnp.uint8)

    def upsampled(k: int) -> Array:
        return _resize(by_class[:, k, :, :, None], (size[0], size[1]))[..., 0]

    # Class by class, since upsampled scores of all classes of a large photo take gigabytes.
    best = upsampled(0)
    labels = jnp.zeros(best.shape, jnp.uint8)
    for k in range(1, scores.shape[3]):
        other = upsampled(k)
        labels = jnp.where(other > best, jnp.uint8(k), labels)
        best = jnp.maximum(other, best)
    return _choose(by_class.argmax(1).astype(jnp.uint8), labels)


def _choose(unchanged: Array, resized: Array) -> Array:
    """Calls `choose_by_size` if sizes are symbols."""
    sizes = (*unchanged.shape[1:3], *resized.shape[1:3])
    is_free = any(map(jax.export.is_symbolic_dim, sizes))
    return choose_by_size(unchanged, resized) if is_free else resized


def _array(side: Any) -> Array:
    """Returns a length, which may be a symbol, as an array."""
    return jnp.asarray(side, jnp.int32)
