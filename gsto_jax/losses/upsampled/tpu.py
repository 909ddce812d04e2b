"""Log-probability of each pixel's true class by a Pallas kernel for TPUs.

Forward, for each label pixel P with the bilinear weights u over the pixels q of the logits:

    z_P = sum_q u_Pq logits_q
    lse_P = log(sum_k exp(z_Pk))
    log_p_P = z_P[label_P] - lse_P                           0 for an ignored label

Backward, for the cotangent d of log_p, 0 for an ignored label:

    dz_Pk = (1[k = label_P] - exp(z_Pk - lse_P)) d_P
    dlogits_q = sum_P u_Pq dz_P

An image's logits stay in VMEM, as `h k w`. Each program processes a strip of label rows: the matrix
unit upsamples columns, two products upsample rows, and only scalars per pixel are written. The
backward pass recomputes z and accumulates dlogits.
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
from gsto_jax.ops.taps import linear_taps

_STRIP = 32  # rows of labels: a tile of uint8
_VMEM = 48 * 2**20  # bytes
_wide = jnp.float32


def unsupported_reason(
    logits: tuple[int, ...], dtype: Any, labels: tuple[int, ...], align_corners: bool
) -> str:
    """Returns why the kernel cannot process these shapes; empty if it can."""
    shape = [*logits, *labels[1:]]
    if reason := dispatch.unsupported_reason(shape, dtype, split_height=False):
        return reason
    height, scale = logits[1], labels[1] // max(logits[1], 1)
    if align_corners:
        return "it does not align corners"
    if scale * height != labels[1] or _STRIP % scale or height % (_STRIP // scale):
        return (
            f"{height} rows of logits for {labels[1]} of labels: it upsamples by a divisor of "
            f"{_STRIP}, whole strips of {_STRIP} rows"
        )
    if logits[2] * scale != labels[2]:
        return f"{logits[2]} columns of logits for {labels[2]} of labels, but {scale} times as rows"
    lanes, padded_classes = -(-logits[2] // 128) * 128, -(-logits[3] // 16) * 16
    if height * padded_classes * lanes * 12 > _VMEM // 2:
        return f"{height}x{logits[2]} logits do not fit into VMEM"
    return ""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def true_log_probability(logits: Array, labels: Array, interpret: bool = False) -> Array:
    """See `gsto_jax.losses.upsampled.api`."""
    return _forward(logits, labels, interpret)[0]


def _forward(logits: Array, labels: Array, interpret: bool) -> tuple[Array, tuple[Array, ...]]:
    run = map_shards(partial(_run_forward, interpret=interpret), (BATCH, BATCH), (BATCH, BATCH))
    log_p, lse = run(logits, labels)
    return log_p, (logits, labels, lse)


def _backward(interpret: bool, residuals: tuple[Array, ...], d: Array) -> tuple[Array, Any]:
    run = map_shards(partial(_run_backward, interpret=interpret), (BATCH,) * 4, BATCH)
    return run(*residuals, d), np.zeros(residuals[1].shape, jax.dtypes.float0)


true_log_probability.defvjp(_forward, _backward)


def _run_forward(logits: Array, labels: Array, interpret: bool) -> Any:
    out = jax.ShapeDtypeStruct(labels.shape, _wide)
    return _call(_forward_kernel, logits, [labels], [out, out], interpret)


def _run_backward(logits: Array, labels: Array, lse: Array, d: Array, interpret: bool) -> Array:
    batch, height, width, classes = logits.shape
    out = jax.ShapeDtypeStruct((batch, height, classes, width), _wide)
    (dlogits,) = _call(_backward_kernel, logits, [labels, lse, d], [out], interpret)
    return dlogits.transpose(0, 1, 3, 2).astype(logits.dtype)


def _call(
    kernel: Any,
    logits: Array,
    strips: Sequence[Array],
    outs: Sequence[jax.ShapeDtypeStruct],
    interpret: bool,
) -> Any:
    batch, height, width, classes = logits.shape
    rows, columns = strips[0].shape[1:]
    scale = rows // height
    step = _STRIP // scale
    column_weights = jnp.asarray(_column_weights(width, columns), logits.dtype)
    image = pl.BlockSpec((1, height, classes, width), lambda b, s: (b, 0, 0, 0))
    strip = pl.BlockSpec((1, _STRIP, columns), lambda b, s: (b, s, 0))
    return pl.pallas_call(
        partial(kernel, step=step, scale=scale),
        grid=(batch, height // step),
        in_specs=[
            image,
            pl.BlockSpec((width, columns), lambda b, s: (0, 0)),
            *([strip] * len(strips)),
        ],
        out_specs=[strip if out.shape == strips[0].shape else image for out in outs],
        out_shape=list(outs),
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_VMEM),
        interpret=interpret,
    )(logits.transpose(0, 1, 3, 2), column_weights, *strips)


def _forward_kernel(
    logits: Any, column_weights: Any, labels: Any, log_p: Any, lse: Any, *, step: int, scale: int
) -> None:
    _, rows = _upsample_columns(logits, column_weights, step)
    classes = jax.lax.broadcasted_iota(jnp.int32, rows[0].shape, 0)
    for n, (row, above, below) in enumerate(_row_taps(step, scale)):
        z = above * rows[row] + below * rows[row + 1]
        z_max = z.max(0, keepdims=True)
        lse_row = z_max + jnp.log(jnp.exp(z - z_max).sum(0, keepdims=True))
        label = labels[0, pl.ds(n, 1)].astype(jnp.int32)
        log_p_row = jnp.where(classes == label, z - lse_row, 0).sum(0, keepdims=True)
        log_p[0, pl.ds(n, 1)] = log_p_row
        lse[0, pl.ds(n, 1)] = lse_row


def _backward_kernel(
    logits: Any,
    column_weights: Any,
    labels: Any,
    lse: Any,
    d: Any,
    dlogits: Any,
    *,
    step: int,
    scale: int,
) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        dlogits[...] = jnp.zeros_like(dlogits)

    indices, rows = _upsample_columns(logits, column_weights, step)
    classes = jax.lax.broadcasted_iota(jnp.int32, rows[0].shape, 0)
    drows = [jnp.zeros_like(rows[0]) for _ in rows]
    for n, (row, above, below) in enumerate(_row_taps(step, scale)):
        z = above * rows[row] + below * rows[row + 1]
        label = labels[0, pl.ds(n, 1)].astype(jnp.int32)
        d_row = jnp.where((label >= 0) & (label < len(classes)), d[0, pl.ds(n, 1)], 0)
        p = jnp.exp(z - lse[0, pl.ds(n, 1)])
        dz = (jnp.where(classes == label, 1.0, 0.0) - p) * d_row
        drows[row] += above * dz
        drows[row + 1] += below * dz
    for index, drow in zip(indices, drows, strict=True):
        dlogits[0, index] += _matmul(drow, column_weights[...].astype(_wide), (1, 1))


def _upsample_columns(logits: Any, column_weights: Any, step: int) -> tuple[list[Any], list[Array]]:
    """Returns the rows of logits for a strip, `k W`, and their indices, clamped at the border."""
    first, last = pl.program_id(1) * step, logits.shape[1] - 1
    indices = [jnp.clip(first + n, 0, last) for n in range(-1, step + 1)]
    return indices, [_matmul(logits[0, index], column_weights[...], (1, 0)) for index in indices]


def _matmul(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    # The interpolation weights are exact in bfloat16, and so are their products in float32.
    is_exact = a.dtype == jnp.bfloat16
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=None if is_exact else jax.lax.Precision.HIGHEST,
        preferred_element_type=_wide,
    )


def _row_taps(step: int, scale: int) -> list[tuple[int, float, float]]:
    """Returns, for each row of labels, the first of its two rows of logits, and both weights."""
    centers = [(n + 0.5) / scale - 0.5 for n in range(step * scale)]
    return [(math.floor(x) + 1, 1 - x % 1, x % 1) for x in centers]


def _column_weights(width: int, columns: int) -> np.ndarray:
    """Returns bilinear weights `width columns`, for half-pixel centers clamped at the border."""
    taps, weights = linear_taps(width, columns), np.zeros((width, columns))
    np.add.at(weights, (taps.index, np.arange(columns)[:, None]), taps.weight)
    return weights
