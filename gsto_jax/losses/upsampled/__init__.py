"""Logits upsampled to the labels, and the log-probability of each pixel's class, in one.

api   the function
xla   what any device can do; it defines the numbers
tpu   a kernel that never stores logits of full size
"""

from gsto_jax.losses.upsampled.api import true_log_probability

__all__ = ["true_log_probability"]
