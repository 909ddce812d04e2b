"""Gated feature maps: computes spatial and channel gates and scales feature maps by them."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsto_jax.gate import gpu, kernels, tpu, xla
from gsto_jax.gate.kernels import GateSpec, Passes, scaled_sigmoid
from gsto_jax.ops.batch_norm import NormParameters
from gsto_jax.ops.dispatch import call_implementation
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap, unwrap, wrap_like


class Gated(NamedTuple):
    """Output of `gated_maps`.

    Attributes:
      maps: the features scaled by each gate, `n` maps `b h w c` in the dtype of the features.
      gates: gates `b h w n` in (0, maximum), for inspection; under `jit` unused gates cost nothing.
      mean: mean of each gate's logits, if they were normalized by BN.
      var: biased variance of each gate's logits, if they were normalized by BN.
    """

    maps: tuple[Any, ...]
    gates: Any
    mean: Float[Array, " n"] | None
    var: Float[Array, " n"] | None


def gated_maps(
    features: Real[FeatureMap, "b h w c"],
    kernel: Real[Array, "c n"],
    norm: NormParameters | None = None,
    *,
    relu: bool = False,
    maximum: float = 1.0,
    implementation: str | None = None,
    interpret: bool = False,
) -> Gated:
    """Computes spatial gates from a feature map and scales the map by them (eq. 3, 4).

    `gated_n = maximum * sigmoid(act(norm_n(features . kernel_n))) * features`: the paper's gate
    without `norm`, the released one with BN and `relu`. In the forward pass the kernels read the
    map once, or twice with BN statistics, and write each gated map once; in the backward pass they
    read the map and the cotangents as often and write one gradient. On GPUs, XLA was as fast in the
    networks (docs/performance.md), so the GPU kernels run only on request. On several devices, call
    this under `jax.set_mesh(mesh)` or inside `jax.shard_map`: XLA cannot partition a kernel.

    Args:
      features: bfloat16 or float32 for the kernels, any float for XLA. The GPU kernels take
        unpacked maps, up to 8 gates, and 3 to 64 channels or up to 16 times as many that a power of
        two divides.
      kernel: one column per gate.
      norm: parameters of the BN on the logits, or of its affine map at inference; None for no BN.
      relu: whether a ReLU precedes the sigmoid.
      maximum: upper bound of the gates, which lie in (0, maximum).
      implementation: "xla", "pallas_tpu", "pallas_gpu", or None to choose (see
        `gsto_jax.ops.dispatch`).
      interpret: whether to run the kernels in interpret mode, on any device.

    Raises:
      ValueError: the shapes do not match, or the implementation is unknown or cannot run.

    Example:
      >>> features, kernel = jnp.ones((1, 8, 8, 32)), jnp.zeros((32, 2))
      >>> gated = gated_maps(features, kernel)
      >>> gated.maps[0].shape, gated.gates.shape, float(gated.maps[1].max())
      ((1, 8, 8, 32), (1, 8, 8, 2), 0.5)
    """
    kernel = as_floating(kernel)
    features = as_floating(features, kernel.dtype)
    _check_shapes(features, kernel)
    data, factor = unwrap(features)
    spec = GateSpec(kernel.shape[1], factor, relu, interpret, maximum)
    shift = None if norm is None else norm.shift
    available, unavailable = _implementations(data, spec, shift)
    # The shift is bound to the XLA implementation: the kernels do not support it.
    operand = None if norm is None else replace(norm, shift=None)
    maps, mean, var = call_implementation(
        implementation, available, unavailable, data, kernel, operand
    )
    # Recomputed for inspection: no kernel stores the gates. Logits are not rounded to bfloat16.
    logits = xla.compute_logits(data, kernel, factor)
    gates, _, _ = xla.gates_from_logits(logits, norm, spec, shift)
    gates = gates.astype(data.dtype)
    return Gated(tuple(wrap_like(x, features) for x in maps), wrap_like(gates, features), mean, var)


def _check_shapes(features: FeatureMap, kernel: Array) -> None:
    if kernel.ndim != 2:
        raise ValueError(f"kernel must be c n, one column per gate; got shape {kernel.shape}")
    if features.ndim != 4 or features.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"features must be b h w {kernel.shape[0]} for a kernel of shape {kernel.shape}; "
            f"got shape {features.shape}"
        )


def _implementations(
    data: Array, spec: GateSpec, shift: Array | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the available implementations, and why others are unavailable."""
    available: dict[str, Any] = {"xla": partial(xla.gated_maps, spec=spec, shift=shift)}
    unavailable = {}
    for name, device in (("pallas_tpu", tpu), ("pallas_gpu", gpu)):
        unavailable[name] = device.unsupported_reason(data, spec)
        if not unavailable[name]:
            available[name] = partial(_by_kernels, spec=spec, passes=device.PASSES)
    return available, unavailable


def _by_kernels(
    features: Array, kernel: Array, norm: NormParameters | None, *, spec: GateSpec, passes: Passes
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    if norm is None:
        scale = jnp.ones(kernel.shape[1], kernel.dtype)
        norm = NormParameters(scale, jnp.zeros_like(scale))
    return kernels.gated_maps(features, kernel, norm.scale, norm.bias, norm.epsilon, spec, passes)


def apply_gates(
    features: Real[FeatureMap, "b h w c"],
    gate_logits: Real[FeatureMap, "b h w n"],
    maximum: float = 1.0,
) -> tuple[tuple[Float[FeatureMap, "b h w c"], ...], Float[FeatureMap, "b h w n"]]:
    """Scales a feature map by the spatial gates of given logits, one scalar per pixel (eq. 3).

    `gated_n = maximum * sigmoid(gate_logits[..., n]) * features`: all channels share a gate.

    Args:
      features: the map to scale.
      gate_logits: the gates before their sigmoid, packed like the features.
      maximum: upper bound of the gates, which lie in (0, maximum).

    Returns:
      The map scaled by each gate, in the dtype of `features`, and the gates.

    Raises:
      ValueError: features and logits differ in batch, height, width or packing.

    Example:
      >>> (gated,), gate = apply_gates(jnp.ones((1, 4, 4, 8)), jnp.zeros((1, 4, 4, 1)))
      >>> float(gated[0, 0, 0, 0])
      0.5
    """
    if features.shape[:-1] != gate_logits.shape[:-1]:
        raise ValueError(
            f"gate_logits must share batch, height and width with the features {features.shape}; "
            f"got shape {gate_logits.shape}"
        )
    (data, factor), (logits, logits_factor) = unwrap(features), unwrap(gate_logits)
    if factor != logits_factor:
        raise ValueError(
            f"gate_logits must be packed by {factor} like the features; got {logits_factor}"
        )
    logits = as_floating(logits)
    data = as_floating(data, logits.dtype)
    gates = scaled_sigmoid(logits, maximum).astype(data.dtype)
    maps = xla.scale_maps(data, gates, factor)
    return tuple(wrap_like(x, features) for x in maps), wrap_like(gates, features)


def apply_channel_gates(
    features: Real[FeatureMap, "b h w c"], gate_logits: Real[Array, "b 1 1 c"]
) -> Float[FeatureMap, "b h w c"]:
    """Scales a feature map by gates over channels, one scalar per channel of each image (Table 3).

    Args:
      features: the map to scale.
      gate_logits: the gates before their sigmoid.

    Returns:
      `sigmoid(gate_logits) * features`, in the dtype of `features`.

    Raises:
      ValueError: features and logits differ in batch or channels.
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
