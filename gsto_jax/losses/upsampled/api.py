"""The log-probability of each pixel's class under logits of a lower resolution."""

from functools import partial

from jax import Array

from gsto_jax.losses.upsampled import tpu, xla
from gsto_jax.ops.dispatch import call


def true_log_probability(
    logits: Array,
    classes: Array,
    align_corners: bool = False,
    implementation: str | None = None,
    interpret: bool = False,
) -> Array:
    """Upsamples logits bilinearly to the labels and reads the log-softmax at each pixel's class.

    Args:
      logits: `b h w k`, any float dtype; computed in at least float32.
      classes: `b H W` uint8 or int32; a pixel whose number is none of `0..k-1` gets 0.
      align_corners: of the upsampling.
      implementation: "xla", "pallas_tpu", or None to choose (see `gsto_jax.ops.dispatch`).
      interpret: runs the kernel by an interpreter, on any device.

    Returns:
      `b H W`, at least float32.

    Raises:
      ValueError: the implementation is unknown, or cannot take this.
    """
    offers = {"xla": partial(xla.true_log_probability, align_corners=align_corners)}
    reason = tpu.unsupported_reason(logits.shape, logits.dtype, classes.shape, align_corners)
    if not reason:
        offers["pallas_tpu"] = partial(tpu.true_log_probability, interpret=interpret)
    refused = {"pallas_tpu": reason, "pallas_gpu": "there is none for this operation"}
    return call(implementation, offers, refused, logits, classes)
