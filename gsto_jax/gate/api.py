"""Gating: the only place in this package where a gate meets a feature map."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.gate import gpu, kernels, tpu, xla
from gsto_jax.gate.kernels import Form, Passes
from gsto_jax.ops.batch_norm import NormParameters
from gsto_jax.ops.dispatch import call
from gsto_jax.ops.floating import as_floating


class Gated(NamedTuple):
    """Results of `gated_maps`.

    Attributes:
      maps: `n` gated maps `b h w c` in the dtype of the features.
      gates: `b h w n`, for inspection; under `jit`, what is not used costs nothing.
      mean: of the logits, by gate, if they were normalized.
      var: their biased variance.
    """

    maps: tuple[Array, ...]
    gates: Array
    mean: Array | None
    var: Array | None


def gated_maps(
    features: Array,
    kernel: Array,
    norm: NormParameters | None = None,
    *,
    relu: bool = False,
    pack: int = 1,
    implementation: str | None = None,
    interpret: bool = False,
) -> Gated:
    """Computes gates from a feature map and scales it by them, one scalar a pixel each (eq. 3, 4).

    `gated_n = sigmoid(act(norm_n(features . kernel_n))) * features`: without `norm` the paper's
    gate; with BN and `relu` the released one. The kernels read the map once, or twice where
    statistics come first, and write each gated map once; backward they read map and gradients as
    often and write one gradient. On GPUs XLA was as fast in the networks (docs/performance.md), so
    their kernels run only where they are named. On several devices call this under
    `jax.set_mesh(mesh)` or inside `jax.shard_map`: XLA cannot divide a kernel.

    Args:
      features: `b h w c`; bfloat16 and float32 for the kernels, any float for XLA. Those for GPUs
        take them unpacked, and up to 8 gates.
      kernel: `c n`, one column a gate.
      norm: of the logits, with values `n`; None for none.
      relu: the activation before the sigmoid; else none.
      pack: of `features` (see `gsto_jax.ops.packing`).
      implementation: "xla", "pallas_tpu", "pallas_gpu", or None to choose (see
        `gsto_jax.ops.dispatch`).
      interpret: runs the kernel by an interpreter, on any device.

    Raises:
      ValueError: shapes that do not fit, or an implementation that is unknown or cannot run.

    Example:
      >>> gated, other = gated_maps(features, kernel, relu=True).maps  # kernel c 2
    """
    kernel = as_floating(kernel)
    features = as_floating(features, kernel.dtype)
    if kernel.ndim != 2:
        raise ValueError(f"kernel must be c n, one column per gate; got shape {kernel.shape}")
    if features.ndim != 4 or features.shape[-1] != kernel.shape[0] * pack:
        raise ValueError(
            f"features {features.shape} packed by {pack} and a kernel {kernel.shape}: give maps "
            f"b h w {kernel.shape[0] * pack}"
        )
    form = Form(kernel.shape[1], pack, relu, interpret)
    shift = None if norm is None else norm.shift
    offers, refused = {"xla": partial(xla.gated_maps, form=form, shift=shift)}, {}
    for name, device in (("pallas_tpu", tpu), ("pallas_gpu", gpu)):
        refused[name] = device.reason_against(features, form)
        if not refused[name]:
            offers[name] = partial(_by_kernels, form=form, passes=device.PASSES)
    # Closed over instead: the kernels take no shift.
    operand = None if norm is None else replace(norm, shift=None)
    maps, mean, var = call(implementation, offers, refused, features, kernel, operand)
    # Computed again for inspection: no kernel stores the gates.
    gates, _, _ = xla.gates(xla.logits(features, kernel, pack), norm, form, shift)
    return Gated(maps, gates.astype(features.dtype), mean, var)


def _by_kernels(
    features: Array, kernel: Array, norm: NormParameters | None, *, form: Form, passes: Passes
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    if norm is None:
        scale = jnp.ones(kernel.shape[1], kernel.dtype)
        norm = NormParameters(scale, jnp.zeros_like(scale))
    return kernels.gates(features, kernel, norm.scale, norm.bias, norm.epsilon, form, passes)


def apply_gates(
    features: Array, gate_logits: Array, pack: int = 1
) -> tuple[tuple[Array, ...], Array]:
    """Scales a feature map by gates from elsewhere, one scalar a pixel each (eq. 3).

    `gated_n = sigmoid(gate_logits[..., n]) * features`, the gate shared by all channels.

    Args:
      features: `b h w c`, any float dtype.
      gate_logits: `b h w n`, the gates before their sigmoid.
      pack: of both (see `gsto_jax.ops.packing`).

    Returns:
      `n` gated maps `b h w c` in the dtype of `features`, and the gates `b h w n`.

    Raises:
      ValueError: the two do not share `b h w`.

    Example:
      >>> (gated,), gate = apply_gates(jnp.ones((1, 4, 4, 8)), jnp.zeros((1, 4, 4, 1)))
      >>> float(gated[0, 0, 0, 0])
      0.5
    """
    if features.shape[:-1] != gate_logits.shape[:-1]:
        raise ValueError(
            f"gates {gate_logits.shape} and features {features.shape} must share batch, height and "
            "width: make the gate at the resolution of the map that it scales"
        )
    gate_logits = as_floating(gate_logits)
    features = as_floating(features, gate_logits.dtype)
    gates = jax.nn.sigmoid(gate_logits).astype(features.dtype)
    return xla.scale_maps(features, gates, pack), gates


def apply_channel_gates(features: Array, gate_logits: Array, pack: int = 1) -> Array:
    """Scales a feature map by gates over channels, one scalar a channel of each picture (Table 3).

    Args:
      features: `b h w c`, any float dtype.
      gate_logits: `b 1 1 c`, the gates before their sigmoid.
      pack: of the features (see `gsto_jax.ops.packing`).

    Returns:
      `sigmoid(gate_logits) * features`, in the shape and dtype of `features`.

    Raises:
      ValueError: the two do not share `b` and `c`.
    """
    batch, _, _, lanes = features.shape
    if gate_logits.shape != (batch, 1, 1, lanes // pack):
        raise ValueError(
            f"channel gates {gate_logits.shape} and features {features.shape} packed by {pack}: "
            f"give gates {(batch, 1, 1, lanes // pack)}"
        )
    gate_logits = as_floating(gate_logits)
    features = as_floating(features, gate_logits.dtype)
    gates = jax.nn.sigmoid(gate_logits).astype(features.dtype)
    return (jnp.tile(gates, pack) if pack > 1 else gates) * features
