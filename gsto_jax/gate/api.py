"""Gating: the only place in this package where a gate meets a feature map."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.gate import gpu, kernels, tpu, xla
from gsto_jax.gate.kernels import Form, Passes
from gsto_jax.ops.batch_norm import NormParameters
from gsto_jax.ops.dispatch import call
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap, unwrap, wrap_like


class Gated(NamedTuple):
    """Results of `gated_maps`.

    Attributes:
      maps: `n` gated maps `b h w c` in the dtype of the features.
      gates: `b h w n`, for inspection; under `jit`, what is not used costs nothing.
      mean: of the logits, by gate, if they were normalized.
      var: their biased variance.
    """

    maps: tuple[Any, ...]
    gates: Any
    mean: Array | None
    var: Array | None


def gated_maps(
    features: FeatureMap,
    kernel: Array,
    norm: NormParameters | None = None,
    *,
    relu: bool = False,
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
    if features.ndim != 4 or features.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"features {features.shape} and a kernel {kernel.shape}: give maps b h w "
            f"{kernel.shape[0]}"
        )
    data, factor = unwrap(features)
    form = Form(kernel.shape[1], factor, relu, interpret)
    shift = None if norm is None else norm.shift
    offers, refused = {"xla": partial(xla.gated_maps, form=form, shift=shift)}, {}
    for name, device in (("pallas_tpu", tpu), ("pallas_gpu", gpu)):
        refused[name] = device.unsupported_reason(data, form)
        if not refused[name]:
            offers[name] = partial(_by_kernels, form=form, passes=device.PASSES)
    # Closed over instead: the kernels take no shift.
    operand = None if norm is None else replace(norm, shift=None)
    maps, mean, var = call(implementation, offers, refused, data, kernel, operand)
    # Computed again for inspection: no kernel stores the gates.
    gates, _, _ = xla.gates(xla.logits(data, kernel, factor), norm, form, shift)
    gates = gates.astype(data.dtype)
    return Gated(tuple(wrap_like(x, features) for x in maps), wrap_like(gates, features), mean, var)


def _by_kernels(
    features: Array, kernel: Array, norm: NormParameters | None, *, form: Form, passes: Passes
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    if norm is None:
        scale = jnp.ones(kernel.shape[1], kernel.dtype)
        norm = NormParameters(scale, jnp.zeros_like(scale))
    return kernels.gates(features, kernel, norm.scale, norm.bias, norm.epsilon, form, passes)


def apply_gates(
    features: FeatureMap, gate_logits: FeatureMap
) -> tuple[tuple[FeatureMap, ...], FeatureMap]:
    """Scales a feature map by gates from elsewhere, one scalar a pixel each (eq. 3).

    `gated_n = sigmoid(gate_logits[..., n]) * features`, the gate shared by all channels.

    Args:
      features: `b h w c`, any float dtype.
      gate_logits: `b h w n`, the gates before their sigmoid, packed as the features are.

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
    (data, factor), (logits, logits_factor) = unwrap(features), unwrap(gate_logits)
    if factor != logits_factor:
        raise ValueError(f"gates packed by {logits_factor} and features by {factor} do not fit")
    logits = as_floating(logits)
    data = as_floating(data, logits.dtype)
    gates = jax.nn.sigmoid(logits).astype(data.dtype)
    maps = xla.scale_maps(data, gates, factor)
    return tuple(wrap_like(x, features) for x in maps), wrap_like(gates, features)


def apply_channel_gates(features: FeatureMap, gate_logits: Array) -> FeatureMap:
    """Scales a feature map by gates over channels, one scalar a channel of each image (Table 3).

    Args:
      features: `b h w c`, any float dtype.
      gate_logits: `b 1 1 c`, the gates before their sigmoid.

    Returns:
      `sigmoid(gate_logits) * features`, in the shape and dtype of `features`.

    Raises:
      ValueError: the two do not share `b` and `c`.
    """
    batch, _, _, channels = features.shape
    if gate_logits.shape != (batch, 1, 1, channels):
        raise ValueError(
            f"gate_logits must have the shape {(batch, 1, 1, channels)}; got {gate_logits.shape}"
        )
    gate_logits = as_floating(gate_logits)
    data, factor = unwrap(features)
    data = as_floating(data, gate_logits.dtype)
    gates = jax.nn.sigmoid(gate_logits).astype(data.dtype)
    return wrap_like((jnp.tile(gates, factor) if factor > 1 else gates) * data, features)
