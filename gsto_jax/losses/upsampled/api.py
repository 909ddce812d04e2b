"""Log-probability of each pixel's true class from logits of a lower resolution."""

from functools import partial

from jaxtyping import Array, Float, Integer

from gsto_jax.losses.upsampled import tpu, xla
from gsto_jax.ops.dispatch import call_implementation


def true_log_probability(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    align_corners: bool = False,
    implementation: str | None = None,
    interpret: bool = False,
) -> Float[Array, "b H W"]:
    """Upsamples logits bilinearly to the labels and returns the log-softmax of each pixel's class.

    Args:
      logits: class scores, computed in at least float32.
      labels: uint8 or int32; pixels with a label outside 0..k-1 get log-probability 0.
      align_corners: alignment of the upsampling.
      implementation: "xla", "pallas_tpu", or None to choose (see `gsto_jax.ops.dispatch`).
      interpret: whether to run the kernel in interpret mode, on any device.

    Returns:
      Log-probabilities in at least float32.

    Raises:
      ValueError: the implementation is unknown or cannot run.

    Example:
      >>> logits, labels = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 16, 16), jnp.uint8)
      >>> float(true_log_probability(logits, labels)[0, 0, 0])  # log(1/2)
      -0.6931471824645996
    """
    available = {"xla": partial(xla.true_log_probability, align_corners=align_corners)}
    reason = tpu.unsupported_reason(logits.shape, logits.dtype, labels.shape, align_corners)
    if not reason:
        available["pallas_tpu"] = partial(tpu.true_log_probability, interpret=interpret)
    unavailable = {"pallas_tpu": reason, "pallas_gpu": "this operation has no GPU kernel"}
    return call_implementation(implementation, available, unavailable, logits, labels)
