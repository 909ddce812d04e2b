"""Gating: the only place in this package where a gate meets a feature map."""

import jax
from jax import Array


def apply_gates(features: Array, gate_logits: Array) -> tuple[tuple[Array, ...], Array]:
    """Scales a feature map by one or several gates, one scalar a pixel each (eq. 3).

    `gated_n = sigmoid(gate_logits[..., n]) * features`, the gate shared by all channels.

    Args:
      features: `b h w c`, any float dtype.
      gate_logits: `b h w n`, the gates before their sigmoid.

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
    gates = jax.nn.sigmoid(gate_logits).astype(features.dtype)
    count = gate_logits.shape[-1]
    return tuple(gates[..., n : n + 1] * features for n in range(count)), gates
