"""The gating operation itself, apart from the layers, so that kernels can serve it.

api   the functions
xla   what any device can do; it defines the numbers
kernels   what those for TPUs and GPUs share: gates as a function with a gradient
tpu   kernels for TPUs
gpu   kernels for NVIDIA GPUs
"""

from gsto_jax.gate.api import Gated, apply_channel_gates, apply_gates, gated_maps
from gsto_jax.ops.batch_norm import NormParameters

__all__ = ["Gated", "NormParameters", "apply_channel_gates", "apply_gates", "gated_maps"]
