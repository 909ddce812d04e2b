"""Hyperparameters of a train step that do not change the shapes of its arrays.

They are arguments of the compiled step, so that runs with different learning rates or lengths share
an entry of the compilation cache.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Int

from gsto_jax.losses.hyperparameters import LossHyperparameters
from gsto_jax.training.optimizers import warmup_decay

if TYPE_CHECKING:
    from gsto_jax.training.task import Task


@struct.dataclass
class Hyperparameters:
    """Hyperparameters of one step, Python numbers or scalar arrays.

    Attributes:
      learning_rate: scheduled learning rate.
      momentum: momentum of SGD and LARS.
      weight_decay: weight decay.
      clip_norm: largest norm of the gradient of all parameters.
      ema_decay: decay of the parameter EMA.
      bn_momentum: fraction of the running statistics that BN keeps, one per microbatch:
        `model.bn_momentum`, less in the first steps (`warmup_decay`).
      loss: hyperparameters of the loss.
      class_weights: `k`, or None for equal weights.
      dropout_key: random key of dropout, one per microbatch; None without dropout.
    """

    learning_rate: Any
    momentum: Any
    weight_decay: Any
    clip_norm: Any
    ema_decay: Any
    bn_momentum: Any
    loss: LossHyperparameters
    class_weights: Any = None
    dropout_key: Any = None

    @property
    def per_microbatch(self) -> dict[str, Any]:
        """Values with one item per microbatch, by name."""
        return {"bn_momentum": self.bn_momentum, "dropout_key": self.dropout_key}


def step_hyperparameters(task: "Task", step: Int[Array, ""]) -> Hyperparameters:
    """Returns the hyperparameters of a step (from 0).

    Python numbers stay weakly typed under `jit`, so the step computes with them as with constants.
    """
    optim, class_weights = task.config.optim, task.loss_class_weights
    microbatches = task.config.train.grad_accum_steps
    bn_updates = step * microbatches + jnp.arange(microbatches)
    return Hyperparameters(
        learning_rate=task.schedule(step),
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        clip_norm=optim.clip_norm,
        ema_decay=optim.ema_decay,
        bn_momentum=warmup_decay(task.config.model.bn_momentum, bn_updates),
        loss=LossHyperparameters.from_config(task.config.loss),
        class_weights=None if class_weights is None else jnp.asarray(class_weights, float),
        dropout_key=_dropout_keys(task, step) if task.config.model.has_dropout else None,
    )


def _dropout_keys(task: "Task", step: Int[Array, ""]) -> Array:
    """Returns a random key per microbatch, from the seed of the run and the step."""
    key = jax.random.fold_in(jax.random.key(task.config.seed), step)
    return jax.random.split(key, task.config.train.grad_accum_steps)
