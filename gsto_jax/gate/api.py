"""Gating: the only place in this package where a gate meets a feature map."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.gate import gpu, tpu, xla
from gsto_jax.ops.batch_norm import batch_norm
from gsto_jax.ops.dispatch import call
from gsto_jax.ops.floating import as_floating


class Gated(NamedTuple):
    """What `gated_maps` makes.

    Attributes:
      maps: `n` gated maps `b h w c` in the dtype of the features.
      gates: `b h w n`, for those who look at them; under `jit`, what is not used costs nothing.
      mean: of the logits, by gate, if they were normalised.
      var: their biased variance.
    """

    maps: tuple[Array, ...]
    gates: Array
    mean: Array | None
    var: Array | None


def gated_maps(
    features: Array,
    kernel: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    epsilon: float | None = None,
    relu: bool = False,
    shift: Array | None = None,
    pack: int = 1,
    implementation: str | None = None,
    interpret: bool = False,
) -> Gated:
    """Scales a feature map by gates that it makes itself: one scalar a pixel each (eq. 3, 4).

    `gated_n = sigmoid(act(scale_n * features . kernel_n + bias_n)) * features`: with neither scale
    nor bias the paper's gate; with `relu`, and BN folded into both, the released one at inference.
    With `epsilon` the logits are first normalised by their statistics over batch and pixels (BN in
    training). The kernels read the map once, or twice where statistics come first, and write each
    gated map once; backward they read map and gradients as often and write one gradient. On GPUs
    XLA was as fast in the networks (docs/performance.md), so the kernels for them run only where
    they are asked for.

    Args:
      features: `b h w c`; bfloat16 and float32 for the kernels, any float for XLA. Those for GPUs
        take them unpacked, and up to 8 gates.
      kernel: `c n`, one column a gate.
      scale: `n`, or None.
      bias: `n`, with `scale` or not at all.
      epsilon: added to the variance that normalises; None normalises nothing.
      relu: the activation before the sigmoid; else none.
      shift: `n`, near the mean of the logits: helps XLA to the statistics in one pass.
      pack: of `features` (see `gsto_jax.ops.packing`).
      implementation: "xla", "pallas_tpu", "pallas_gpu", or None to choose (see
        `gsto_jax.ops.dispatch`).
      interpret: runs the kernel by an interpreter, on any device.

    On several devices a kernel has to know the mesh, since XLA cannot divide it: call it under
    `jax.set_mesh(mesh)`, as anything that holds it, or inside `jax.shard_map`.

    Raises:
      ValueError: shapes that do not fit, or an implementation that is unknown or cannot run.

    Example:
      >>> gated, other = gated_maps(features, kernel, relu=True).maps  # kernel c 2
    """
    kernel = as_floating(kernel)
    features = as_floating(features, kernel.dtype)
    if kernel.ndim != 2:
        raise ValueError(f"kernel must be c n, one column per gate; got shape {kernel.shape}")
    channels, count = kernel.shape
    if features.ndim != 4 or features.shape[-1] != channels * pack:
        raise ValueError(
            f"features {features.shape} packed by {pack} and a kernel {kernel.shape}: give maps "
            f"b h w {channels * pack}"
        )
    if (scale is None) != (bias is None) or (epsilon is not None and scale is None):
        raise ValueError("scale and bias belong together, and to logits that are normalised")
    by_xla = partial(_by_xla, epsilon=epsilon, relu=relu, pack=pack, shift=shift)
    offers: dict[str, Any] = {"xla": by_xla}
    refused = {
        "pallas_tpu": tpu.reason_against(features.shape, features.dtype),
        "pallas_gpu": gpu.reason_against(features.shape, features.dtype, count, pack),
    }
    by_kernels = partial(_by_kernels, epsilon=epsilon)
    if not refused["pallas_tpu"]:
        form = tpu.Form(count, pack, relu, interpret)
        offers["pallas_tpu"] = partial(by_kernels, kernels=tpu, form=form)
    if not refused["pallas_gpu"]:
        offers["pallas_gpu"] = partial(
            by_kernels, kernels=gpu, form=gpu.Form(count, relu, interpret)
        )
    maps, mean, var = call(implementation, offers, refused, features, kernel, scale, bias)
    # Anew, for those who look at the gates: no kernel stores them.
    gates, _, _ = _gates(
        xla.logits(features, kernel, pack), scale, bias, epsilon, relu, pack, shift
    )
    return Gated(maps, gates.astype(features.dtype), mean, var)


def _by_xla(
    features: Array,
    kernel: Array,
    scale: Array | None,
    bias: Array | None,
    *,
    epsilon: float | None,
    relu: bool,
    pack: int,
    shift: Array | None,
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    logits = xla.logits(features, kernel, pack)
    if epsilon is not None:
        logits = logits.astype(features.dtype)  # as they are stored
    gates, mean, var = _gates(logits, scale, bias, epsilon, relu, pack, shift)
    return xla.scale_maps(features, gates, pack), mean, var


def _gates(
    logits: Array,
    scale: Array | None,
    bias: Array | None,
    epsilon: float | None,
    relu: bool,
    pack: int,
    shift: Array | None,
) -> tuple[Array, Array | None, Array | None]:
    mean, var = None, None
    if epsilon is not None:
        before, mean, var = batch_norm(logits, scale, bias, epsilon, pack, shift)
    else:
        before = xla.affine(logits, scale, bias, pack)
    return jax.nn.sigmoid(jax.nn.relu(before) if relu else before), mean, var


def _by_kernels(
    features: Array,
    kernel: Array,
    scale: Array | None,
    bias: Array | None,
    *,
    epsilon: float | None,
    kernels: Any,
    form: Any,
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    if epsilon is not None:
        return kernels.normalized_gates(features, kernel, scale, bias, epsilon, form)
    if scale is None or bias is None:
        scale = jnp.ones(kernel.shape[1], kernel.dtype)
        bias = jnp.zeros_like(scale)
    return kernels.affine_gates(features, kernel, scale, bias, form), None, None


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
