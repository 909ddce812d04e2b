"""Class probabilities of an image, and how sure a network is of each pixel.

The probabilities are the scores of the test protocol (`eval.score`, summed over scales and windows,
averaged over the flip), divided by their sum over the classes. For a single pass of the network
that is the softmax of the upsampled logits.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gsto_jax.ops.resample import resample
from gsto_jax.ops.taps import Taps
from gsto_jax.segmentation.metrics import best_class


def class_probabilities(
    scores: Float[Array, "*shape k"], are_logits: bool
) -> Float[Array, "*shape k"]:
    """Normalizes scores to probabilities, which sum to 1.

    Args:
      scores: logits, or nonnegative scores.
      are_logits: whether the scores are logits.
    """
    if are_logits:
        return jax.nn.softmax(scores)
    # The exponential of a large logit is infinite; such classes share the probability.
    limits = jnp.finfo(scores.dtype)
    # An eighth, since devices divide by products with reciprocals, which must not be denormal.
    scores = jnp.clip(scores, limits.tiny, limits.max / (8 * scores.shape[-1]))
    return scores / scores.sum(-1, keepdims=True)


def normalized_entropy(probabilities: Float[Array, "*shape k"]) -> Float[Array, "*shape"]:
    """Computes the entropy of each pixel, divided by log k: 0 for one class, 1 for all alike."""
    entropy = jax.scipy.special.entr(probabilities).sum(-1)
    return jnp.clip(entropy / jnp.log(probabilities.shape[-1]), 0, 1)


@partial(jax.jit, static_argnames=("are_logits", "measures"))
def measure(
    scores: Float[Array, "*shape k"], are_logits: bool, measures: Sequence[str]
) -> dict[str, Array]:
    """Computes labels and measures of every pixel.

    Args:
      scores: as of `class_probabilities`.
      are_logits: as of `class_probabilities`.
      measures: some of `gsto_jax.predict.outputs.MEASURES`, a tuple.

    Returns:
      "labels" `*shape` uint8, "probabilities" `*shape k` float16, "confidence" (the largest
      probability) and "entropy" `*shape` float32.
    """
    results = {"labels": best_class(scores)}
    if measures:
        probabilities = class_probabilities(scores, are_logits)
        if "probabilities" in measures:
            results["probabilities"] = probabilities.astype(jnp.float16)
        if "confidence" in measures:
            results["confidence"] = probabilities.max(-1).astype(jnp.float32)
        if "entropy" in measures:
            results["entropy"] = normalized_entropy(probabilities).astype(jnp.float32)
    return results


@partial(jax.jit, static_argnames=("are_logits", "measures"))
def measure_upsampled(
    scores: Float[Array, "1 h w k"],
    strips: Taps,
    columns: Taps,
    are_logits: bool,
    measures: Sequence[str],
) -> dict[str, Array]:
    """Computes `measure` of upsampled scores, strip by strip since these may take gigabytes.

    Args:
      scores: scores of an image.
      strips: taps `n 1 rows t` of n strips.
      columns: taps `1 w2 t`.
      are_logits: as of `measure`.
      measures: as of `measure`.

    Returns:
      The results of `measure`, `n rows w2 ...`.
    """

    def strip(rows: Taps) -> dict[str, Array]:
        return measure(resample(scores, rows, columns)[0], are_logits, measures)

    return jax.lax.map(strip, strips)
