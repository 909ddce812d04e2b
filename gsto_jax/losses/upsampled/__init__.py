"""Log-probability of each pixel's true class from upsampled logits, as one operation.

api   the public function
xla   reference implementation for any device; defines the numerics
tpu   Pallas kernel that never stores logits of the labels' size
"""

from gsto_jax.losses.upsampled.api import true_log_probability

__all__ = ["true_log_probability"]
