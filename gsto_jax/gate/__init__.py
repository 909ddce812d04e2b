"""The gating operation, separate from the layers so that kernels can implement it.

- `api`: public functions
- `xla`: reference implementation for any device; defines the numerics
- `kernels`: derivation and gradient shared by the kernels
- `tpu`: Pallas kernels for TPUs
- `gpu`: Mosaic GPU kernels for NVIDIA GPUs
- `gpu_blocks`: runs a GPU kernel on blocks of pixels, which `gpu_tiling` divides among threads
"""

from gsto_jax.gate.api import Gated, apply_channel_gates, apply_gates, gated_maps
from gsto_jax.ops.batch_norm import NormParameters

__all__ = ["Gated", "NormParameters", "apply_channel_gates", "apply_gates", "gated_maps"]
