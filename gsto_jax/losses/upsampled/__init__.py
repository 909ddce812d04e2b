"""Log-probabilities from upsampled logits; of each pixel's true class as one operation.

api   the public function of the true class
xla   reference implementation for any device; defines the numerics
tpu   Pallas kernel that never stores logits of the labels' size
"""

from gsto_jax.losses.upsampled.api import true_log_probability
from gsto_jax.losses.upsampled.xla import log_probabilities

__all__ = ["log_probabilities", "true_log_probability"]
