"""The log-probability of each pixel's class, by a kernel for TPUs.

An image's logits stay on the chip. A step of the grid takes a strip of rows: columns are
upsampled by the matrix unit, rows by two products each, and what is left of the full-size logits is
one number a pixel. Backward does the same again and adds up the gradient of the small logits.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gsto_jax.ops import dispatch
from gsto_jax.ops.dispatch import BATCH, map_shards
from gsto_jax.ops.resample import linear_taps

_STRIP = 32  # rows of labels: a tile of uint8
_MEMORY = 48 * 2**20
_wide = jnp.float32


def unsupported_reason(
    logits: tuple[int, ...], dtype: Any, classes: tuple[int, ...], align_corners: bool
) -> str:
    """Why the kernel cannot take these shapes; empty if it can."""
    if reason := dispatch.unsupported_reason([*logits, *classes[1:]], dtype, height=False):
        return reason
    height, factor = logits[1], classes[1] // max(logits[1], 1)
    if align_corners:
        return "it does not align corners"
    if factor * height != classes[1] or _STRIP % factor or height % (_STRIP // factor):
        return (
            f"{height} rows of logits for {classes[1]} of labels: it upsamples by a divisor of "
            f"{_STRIP}, whole strips of {_STRIP} rows"
        )
    if logits[2] * factor != classes[2]:
        return f"{logits[2]} columns of logits for {classes[2]}, where rows grow {factor} times"
    lanes, classes_tiled = -(-logits[2] // 128) * 128, -(-logits[3] // 16) * 16
    if height * classes_tiled * lanes * 12 > _MEMORY // 2:
        return f"{height}x{logits[2]} logits do not fit into the memory on the chip"
    return ""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def true_log_probability(logits: Array, classes: Array, interpret: bool = False) -> Array:
    """See `gsto_jax.losses.upsampled.api`."""
    return _forward(logits, classes, interpret)[0]


def _forward(logits: Array, classes: Array, interpret: bool) -> tuple[Array, tuple[Array, ...]]:
    run = map_shards(partial(_run_forward, interpret=interpret), (BATCH, BATCH), (BATCH, BATCH))
    log_p, normalizer = run(logits, classes)
    return log_p, (logits, classes, normalizer)


def _backward(interpret: bool, saved: tuple[Array, ...], gradient: Array) -> tuple[Array, Any]:
    run = map_shards(partial(_run_backward, interpret=interpret), (BATCH,) * 4, BATCH)
    return run(*saved, gradient), np.zeros(saved[1].shape, jax.dtypes.float0)


true_log_probability.defvjp(_forward, _backward)


def _run_forward(logits: Array, classes: Array, interpret: bool) -> Any:
    out = jax.ShapeDtypeStruct(classes.shape, _wide)
    return _call(_forward_kernel, logits, [classes], [out, out], interpret)


def _run_backward(
    logits: Array, classes: Array, normalizer: Array, gradient: Array, interpret: bool
) -> Array:
    batch, height, width, count = logits.shape
    out = jax.ShapeDtypeStruct((batch, height, count, width), _wide)
    (found,) = _call(_backward_kernel, logits, [classes, normalizer, gradient], [out], interpret)
    return found.transpose(0, 1, 3, 2).astype(logits.dtype)


def _call(
    kernel: Any,
    logits: Array,
    strips: Sequence[Array],
    outs: Sequence[jax.ShapeDtypeStruct],
    interpret: bool,
) -> Any:
    batch, height, width, count = logits.shape
    rows, columns = strips[0].shape[1:]
    factor = rows // height
    step = _STRIP // factor
    across = jnp.asarray(_columns(width, columns), logits.dtype)
    image = pl.BlockSpec((1, height, count, width), lambda b, s: (b, 0, 0, 0))
    strip = pl.BlockSpec((1, _STRIP, columns), lambda b, s: (b, s, 0))
    return pl.pallas_call(
        partial(kernel, step=step, factor=factor),
        grid=(batch, height // step),
        in_specs=[
            image,
            pl.BlockSpec((width, columns), lambda b, s: (0, 0)),
            *([strip] * len(strips)),
        ],
        out_specs=[strip if out.shape == strips[0].shape else image for out in outs],
        out_shape=list(outs),
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_MEMORY),
        interpret=interpret,
    )(logits.transpose(0, 1, 3, 2), across, *strips)


def _forward_kernel(
    logits: Any, across: Any, classes: Any, log_p: Any, normalizer: Any, *, step: int, factor: int
) -> None:
    _, rows = _strip_rows(logits, across, step)
    numbers = jax.lax.broadcasted_iota(jnp.int32, rows[0].shape, 0)
    for n, (row, above, below) in enumerate(_row_taps(step, factor)):
        scores = above * rows[row] + below * rows[row + 1]
        most = scores.max(0, keepdims=True)
        total = most + jnp.log(jnp.exp(scores - most).sum(0, keepdims=True))
        here = classes[0, pl.ds(n, 1)].astype(jnp.int32)
        true = jnp.where(numbers == here, scores - total, 0).sum(0, keepdims=True)
        log_p[0, pl.ds(n, 1)] = true
        normalizer[0, pl.ds(n, 1)] = total


def _backward_kernel(
    logits: Any,
    across: Any,
    classes: Any,
    normalizer: Any,
    gradient: Any,
    out: Any,
    *,
    step: int,
    factor: int,
) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        out[...] = jnp.zeros_like(out)

    places, rows = _strip_rows(logits, across, step)
    numbers = jax.lax.broadcasted_iota(jnp.int32, rows[0].shape, 0)
    sums = [jnp.zeros_like(rows[0]) for _ in rows]
    for n, (row, above, below) in enumerate(_row_taps(step, factor)):
        scores = above * rows[row] + below * rows[row + 1]
        here = classes[0, pl.ds(n, 1)].astype(jnp.int32)
        weight = jnp.where((here >= 0) & (here < len(numbers)), gradient[0, pl.ds(n, 1)], 0)
        share = jnp.exp(scores - normalizer[0, pl.ds(n, 1)])
        change = (jnp.where(numbers == here, 1.0, 0.0) - share) * weight
        sums[row] += above * change
        sums[row + 1] += below * change
    for place, total in zip(places, sums, strict=True):
        out[0, place] += _matmul(total, across[...].astype(_wide), (1, 1))


def _strip_rows(logits: Any, across: Any, step: int) -> tuple[list[Any], list[Array]]:
    """The strip's rows of logits and one beyond each end, `k W`, columns upsampled."""
    first, last = pl.program_id(1) * step, logits.shape[1] - 1
    places = [jnp.clip(first + n, 0, last) for n in range(-1, step + 1)]
    return places, [_matmul(logits[0, place], across[...], (1, 0)) for place in places]


def _matmul(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    # Weights of the interpolation are exact in bfloat16, and so are its products in float32.
    exact = a.dtype == jnp.bfloat16
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=None if exact else jax.lax.Precision.HIGHEST,
        preferred_element_type=_wide,
    )


def _row_taps(step: int, factor: int) -> list[tuple[int, float, float]]:
    """Returns for each row of labels the first of its two rows of logits, and both weights."""
    centers = [(n + 0.5) / factor - 0.5 for n in range(step * factor)]
    return [(math.floor(x) + 1, 1 - x % 1, x % 1) for x in centers]


def _columns(width: int, columns: int) -> np.ndarray:
    """Returns bilinear weights, `width columns`; half-pixel centers, clamped at the border."""
    taps, weights = linear_taps(width, columns), np.zeros((width, columns))
    np.add.at(weights, (taps.index, np.arange(columns)[:, None]), taps.weight)
    return weights
