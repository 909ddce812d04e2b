"""The gating operation itself, kept apart from the layers so that a fused kernel can serve it."""

from gsto_jax.gate.api import apply_gates

__all__ = ["apply_gates"]
