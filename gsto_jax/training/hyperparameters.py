"""Numbers of a training step that are no shapes.

They are arguments of the compiled step, so a run with another learning rate or another number of
steps finds the step of an earlier run in the compilation cache.
"""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from gsto_jax.losses.hyperparameters import LossHyperparameters
from gsto_jax.training.optim import adam, early_decay, sgd

if TYPE_CHECKING:
    from gsto_jax.training.task import Task


@struct.dataclass
class Hyperparameters:
    """Values of one step: Python numbers, or scalars on the devices.

    Attributes:
      learning_rate: of this step, by the schedule.
      momentum: of SGD.
      weight_decay: of every parameter.
      ema_decay: of the averages.
      bn_momentum: share of the old running statistics to keep, by part of the batch
        (`train.grad_accum_steps`): `model.bn_momentum`, less in the first steps (`early_decay`).
      loss: of the loss.
      class_weights: `k`, or None for equal weights.
    """

    learning_rate: Any
    momentum: Any
    weight_decay: Any
    ema_decay: Any
    bn_momentum: Any
    loss: LossHyperparameters
    class_weights: Any = None


def hyperparameters(task: "Task", step: Array) -> Hyperparameters:
    """Returns the values of step `step` (from 0), an int32 scalar.

    Plain numbers stay weakly typed under `jit`: the step computes with them as with constants.
    """
    optim, weights = task.config.optim, task.loss_weights
    parts = task.config.train.grad_accum_steps
    updates = step * parts + jnp.arange(parts)  # of the running statistics
    return Hyperparameters(
        learning_rate=task.schedule(step),
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        ema_decay=optim.ema_decay,
        bn_momentum=early_decay(task.config.model.bn_momentum, updates),
        loss=LossHyperparameters.from_config(task.config.loss),
        class_weights=None if weights is None else jnp.asarray(weights, float),
    )


def optimizer(kind: str, values: Hyperparameters) -> optax.GradientTransformation:
    """Returns the optimizer "sgd" or "adam"; its state is the same whatever the values."""

    def rate(count: Any) -> Any:
        return values.learning_rate

    if kind == "adam":
        return adam(rate, values.weight_decay)
    return sgd(rate, values.momentum, values.weight_decay)
