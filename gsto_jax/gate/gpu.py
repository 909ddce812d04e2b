"""Gated maps by Mosaic GPU kernels for NVIDIA GPUs: each pass reads the map once, stores no logits.

`gsto_jax.gate.kernels` derives the formulas, and `gsto_jax.gate.gpu_blocks` runs a kernel on blocks
of pixels, which are the rows of a matrix. For few gates, products and sums over its columns, the
channels, cost less than a matrix unit would. Programs run in parallel, so each writes its own
partial sum over pixels, and XLA adds these up. Mosaic GPU's copies need Hopper or a newer GPU.

Besides the maps, the kernels read `w`, the kernel as `n c`, and `coef`, the rows a, b, mean, c, d
`_ n`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.gate import gpu_tiling
from gsto_jax.gate.gpu_tiling import Tiling
from gsto_jax.gate.kernels import (
    GateSpec,
    Passes,
    block_sizes,
    gate_from_affine,
    gate_gradient,
)
from gsto_jax.ops import dispatch

if TYPE_CHECKING:
    from gsto_jax.gate.gpu_blocks import Block

MAX_GATES = 8
# Elements of a block in each thread: as many as registers hold. `_back` holds two blocks.
_ELEMENTS, _BACK_ELEMENTS = 48, 32
# A program of `_back` writes a partial sum as large as `num_gates` rows of float32. It processes
# several blocks: enough rows to make that small, and more where as many programs occupy a GPU.
_ROWS, _PROGRAMS, _MAX_STEPS = 64, 1024, 32
_wide = jnp.float32
Refs = Sequence[Any]


def unsupported_reason(features: Array, spec: GateSpec) -> str:
    """Returns why the kernels cannot process a map; empty if they can."""
    if spec.pack_factor > 1:
        return f"it takes unpacked maps; got one packed by {spec.pack_factor}, as for TPUs"
    if spec.num_gates > MAX_GATES:
        return f"it takes up to {MAX_GATES} gates; got {spec.num_gates}"
    if reason := dispatch.unsupported_reason(features.shape, features.dtype):
        return reason
    return gpu_tiling.unsupported_reason(features.shape[3], 2 + spec.num_gates, features.dtype)


# The passes over a shard of a map (see `gsto_jax.gate.kernels.Passes`)


def _statistics(x: Array, w: Array, spec: GateSpec) -> tuple[Array, Array]:
    tiling = _tiling(x, 1, _ELEMENTS)
    unused = jnp.zeros((1, spec.num_gates), _wide)
    (statistics,) = _run(_statistics_kernel, tiling, [x], w, unused, spec=spec, sums=True)
    return statistics, block_sizes(tiling.pixels, tiling.rows, tiling.blocks)


def _apply(x: Array, w: Array, coefficients: Array, spec: GateSpec) -> tuple[Array, ...]:
    tiling, n = _tiling(x, 1 + spec.num_gates, _ELEMENTS), spec.num_gates
    return tuple(_run(_apply_kernel, tiling, [x], w, coefficients, spec=spec, num_maps=n))


def _sums(x: Array, w: Array, coefficients: Array, *douts: Array, spec: GateSpec) -> Array:
    tiling, maps = _tiling(x, 1 + spec.num_gates, _ELEMENTS), [x, *douts]
    (sums,) = _run(_sums_kernel, tiling, maps, w, coefficients, spec=spec, sums=True)
    return sums


def _back(
    x: Array, w: Array, coefficients: Array, *douts: Array, spec: GateSpec
) -> tuple[Array, Array, Array]:
    """With BN, the sums are already part of the coefficients and returned as zeros."""
    tiling = _tiling(x, 2 + spec.num_gates, _BACK_ELEMENTS)
    steps = min(max(_ROWS // tiling.rows, tiling.blocks // _PROGRAMS, 1), _MAX_STEPS)
    dx, *sums, dw = _run(
        _back_kernel,
        tiling.with_steps(steps),
        [x, *douts],
        w,
        coefficients,
        spec=spec,
        num_maps=1,
        sums=len(coefficients) == 2,
        totals=True,
    )
    zeros = jnp.zeros((1, 2, spec.num_gates), _wide)
    return dx, dw.sum(0).T[None], sums[0] if sums else zeros


def _tiling(x: Array, num_maps: int, elements: int) -> Tiling:
    channels = x.shape[3]
    return gpu_tiling.make_tiling(x.size // channels, channels, num_maps, x.dtype, elements)


def _run(
    kernel: Any,
    tiling: Tiling,
    maps: Sequence[Array],
    w: Array,
    coefficients: Array,
    *,
    spec: GateSpec,
    **outputs: Any,
) -> list[Array]:
    """Runs a kernel with `w` rounded to the dtype of the maps."""
    # Takes half a second to import.
    from gsto_jax.gate.gpu_blocks import run_blocks

    def body(*args: Any) -> None:
        kernel(spec, *args)

    body.__name__ = kernel.__name__.strip("_").replace("_kernel", "_gates")
    rounded = w.astype(maps[0].dtype).astype(_wide).T
    return run_blocks(
        body, tiling, maps, rounded, coefficients, interpret=spec.interpret, **outputs
    )


# The kernels


def _statistics_kernel(
    spec: GateSpec, block: "Block", maps: Refs, w: Any, _: Any, outputs: Refs
) -> None:
    (x,), (statistics,), tiling = maps, outputs, block.tiling
    x, first = block.load(x), block.index * tiling.rows
    inside = first + jax.lax.broadcasted_iota(jnp.int32, (tiling.rows,), 0) < tiling.pixels
    count = jnp.minimum(tiling.rows, tiling.pixels - first).astype(_wide)
    for n in range(spec.num_gates):
        z = _logits(block, x, w, n)
        mean = z.sum(0) / count
        statistics[block.index, 0, n] = mean
        statistics[block.index, 1, n] = jnp.where(inside, jnp.square(z - mean), 0).sum(0) / count


def _apply_kernel(
    spec: GateSpec, block: "Block", maps: Refs, w: Any, coef: Any, outputs: Refs
) -> None:
    x = block.load(maps[0])
    for n, out in enumerate(outputs):
        z = _logits(block, x, w, n)
        g, _ = gate_from_affine(coef[0, n] * z, coef[1, n], spec)
        out[...] = (block.spread(g, 0) * x).astype(out.dtype)


def _sums_kernel(
    spec: GateSpec, block: "Block", maps: Refs, w: Any, coef: Any, outputs: Refs
) -> None:
    x, (sums,) = block.load(maps[0]), outputs
    for n, dout_ref in enumerate(maps[1:]):
        z, dout = _logits(block, x, w, n), block.load(dout_ref)
        _, dy = _affine_gradient(spec, x, dout, z, coef, n)
        sums[block.index, 0, n] = dy.sum(0)
        sums[block.index, 1, n] = (dy * (z - coef[2, n])).sum(0)


def _back_kernel(
    spec: GateSpec, block: "Block", maps: Refs, w: Any, coef: Any, outputs: Refs
) -> None:
    x, (dx, *sums, dw) = block.load(maps[0]), outputs
    is_first, gradients = jnp.full(block.tiling.channels, block.is_first), []
    for n, dout_ref in enumerate(maps[1:]):
        z, dout = _logits(block, x, w, n), block.load(dout_ref)
        g, dy = _affine_gradient(spec, x, dout, z, coef, n)
        dz = coef[0, n] * dy
        if not sums:
            dz += coef[3, n] + coef[4, n] * (z - coef[2, n])
        gradients.append((g, dz))
        dw_block = (x * block.spread(dz, 0)).sum(0)
        dw[n] = jnp.where(is_first, dw_block, dw[n] + dw_block)
        if sums:
            sums[0][block.index, 0, n] = dy.sum(0)
            sums[0][block.index, 1, n] = (dy * z).sum(0)
    # Loads the cotangents again, since registers do not hold those of all gates.
    total: Any = 0
    for n, (g, dz) in enumerate(gradients):
        total += block.spread(g, 0) * block.load(maps[1 + n])
        total += block.spread(dz, 0) * block.spread(w[n], 1)
    dx[...] = total.astype(dx.dtype)


def _logits(block: "Block", x: Array, w: Any, n: int) -> Array:
    return (x * block.spread(w[n], 1)).sum(1)


def _affine_gradient(
    spec: GateSpec, x: Array, dout: Array, z: Array, coef: Any, n: int
) -> tuple[Array, Array]:
    """Returns g and dy of gate n."""
    g, y = gate_from_affine(coef[0, n] * z, coef[1, n], spec)
    return g, gate_gradient((x * dout).sum(1), g, y, spec)


PASSES = Passes(_statistics, _apply, _sums, _back)
