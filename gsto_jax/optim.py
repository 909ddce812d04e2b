"""SGD with momentum as PyTorch defines it, and the poly learning rate (paper, section 4.3)."""

import jax.numpy as jnp
import optax


def poly_schedule(
    learning_rate: float, steps: int, power: float = 0.9, lag: bool = False
) -> optax.Schedule:
    """Learning rate of step n (from 0): `learning_rate * (1 - n / steps) ** power`.

    Args:
      learning_rate: of step 0.
      steps: of the whole run.
      power: of the decay.
      lag: step n runs at the rate of step n - 1, as in the published loop, which sets the rate
        after the step.
    """
    poly = optax.polynomial_schedule(learning_rate, 0.0, power, steps)
    if not lag:
        return poly
    return lambda count: poly(jnp.maximum(count - 1, 0))


def sgd(
    schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD in PyTorch's order: `g += wd * p; buffer = momentum * buffer + g; p -= lr * buffer`.

    Weight decay acts on every parameter, BN and biases included, and the rate multiplies the
    buffer, so a change of rate acts at once.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(schedule),
    )
