"""The train step, a pure module-level function."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gsto_jax.devices.mesh import all_gather
from gsto_jax.errors import StatisticsError
from gsto_jax.losses import MicrobatchWeights
from gsto_jax.models.base import Outputs
from gsto_jax.training.augmentation import augment
from gsto_jax.training.hyperparameters import Hyperparameters, step_hyperparameters
from gsto_jax.training.network import batch_norm_error
from gsto_jax.training.optimizers import update_ema
from gsto_jax.training.parameter_groups import merge, split
from gsto_jax.training.task import AUGMENT_SEED, Batch, Task, TrainState, normalize, task_optimizer


def train_step(
    task: Task, state: TrainState, batch: Batch, hyperparameters: Hyperparameters | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """Runs one optimizer step.

    With `train.grad_accum_steps` the gradients of microbatches are accumulated. BN then normalizes
    by the statistics of a microbatch and updates its running statistics once per microbatch, and
    OHEM, Dice and Lovász losses are those of a microbatch; everything else equals the step of the
    whole batch.

    Args:
      task: task to train.
      state: state before the step.
      batch: arrays of `task.train_inputs`, for segmentation "image" `b h w c` uint8, "label"
        `b h w` integers and "size" `b 2` (see `normalize`).
      hyperparameters: hyperparameters of the step; None to use the values of the task as constants.

    Returns:
      The state after the step, and scalar metrics: "loss", the loss of each head such as
      "loss/stage2", "learning_rate", "gradient_norm" (before `optim.clip_norm`), and "finite",
      whether loss, gradient and new parameters are.
    """
    if hyperparameters is None:
        hyperparameters = step_hyperparameters(task, state.step)
    params, batch_stats = state.params, state.batch_stats
    if task.config.parallel.shard_parameters:
        params, batch_stats = all_gather((params, batch_stats))
    if task.config.train.grad_accum_steps == 1:
        values = jax.tree.map(lambda x: x[0], hyperparameters.per_microbatch)
        grads, losses, batch_stats = _gradient(
            task, params, batch_stats, batch, replace(hyperparameters, **values)
        )
    else:
        grads, losses, batch_stats = _accumulate(task, params, batch_stats, batch, hyperparameters)

    optimizer = task_optimizer(task, hyperparameters)
    trained, frozen = split(state.params, task.frozen.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params = merge(optax.apply_updates(trained, updates), frozen)
    ema = state.ema
    if ema is not None:
        current = {"params": params, "batch_stats": batch_stats}
        ema = update_ema(ema, current, hyperparameters.ema_decay, state.step)
        ema = task.frozen.restore(ema, state.ema)
    new_state = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
    norm, new_variables = optax.tree.norm(grads), (params, batch_stats)
    finite = jnp.isfinite(jnp.stack([losses["loss"], norm, *map(optax.tree.norm, new_variables)]))
    metrics = losses | {
        "learning_rate": hyperparameters.learning_rate,
        "gradient_norm": norm,
        "finite": finite.all(),
    }
    return new_state, metrics


def _gradient(
    task: Task,
    params: Any,
    batch_stats: Any,
    batch: Batch,
    hyperparameters: Hyperparameters,
    microbatch_weights: MicrobatchWeights = (1.0, 1.0),
) -> tuple[Any, dict[str, Array], Any]:
    """Returns the gradient of the trained parameters, losses and new running statistics."""
    model = task.model.clone(
        bn_momentum=hyperparameters.bn_momentum, frozen_norms=task.frozen.norms
    )
    trained, frozen = split(params, task.frozen.params)
    key = hyperparameters.dropout_key
    kwargs: Any = {} if key is None else {"rngs": {"dropout": key}}
    images = batch["image"]
    if task.config.augment.is_enabled:
        images = augment(images, batch[AUGMENT_SEED], task.config.augment, task.mean)
    images = normalize(task, images, batch.get("size"))

    def loss_fn(trained: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
        variables = {"params": merge(trained, frozen), "batch_stats": batch_stats}
        try:
            outputs, updates = model.apply(
                variables, images, train=True, mutable=["batch_stats"], **kwargs
            )
        except StatisticsError as error:
            raise batch_norm_error(task.config, images.shape, error) from None
        assert isinstance(outputs, Outputs)
        loss, by_stage = task.losses(outputs, batch, microbatch_weights, hyperparameters)
        losses = {"loss": loss} | {f"loss/{stage}": value for stage, value in by_stage.items()}
        return loss, (losses, updates["batch_stats"])

    (_, (losses, new_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    return grads, losses, new_stats


def _accumulate(
    task: Task,
    params: Any,
    batch_stats: Any,
    batch: Batch,
    hyperparameters: Hyperparameters,
) -> tuple[Any, dict[str, Array], Any]:
    """Returns gradient, losses and new running statistics, accumulated over microbatches."""
    # Microbatch i holds every n-th image from i on, so that no image changes its device.
    n = task.config.train.grad_accum_steps
    microbatches = {k: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}
    microbatch_weights = task.microbatch_weights(microbatches)
    inputs = (microbatches, microbatch_weights, hyperparameters.per_microbatch)

    def gradient(batch_stats: Any, inputs: Any) -> tuple[Any, dict[str, Array], Any]:
        microbatch, microbatch_weights, values = inputs
        return _gradient(
            task,
            params,
            batch_stats,
            microbatch,
            replace(hyperparameters, **values),
            microbatch_weights,
        )

    def body(carry: Any, inputs: Any) -> tuple[Any, None]:
        grads, losses, batch_stats = carry
        new_grads, new_losses, batch_stats = gradient(batch_stats, inputs)
        add = partial(jax.tree.map, jnp.add)
        return (add(grads, new_grads), add(losses, new_losses), batch_stats), None

    shapes = jax.eval_shape(gradient, batch_stats, jax.tree.map(lambda x: x[0], inputs))
    grads, losses, _ = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (grads, losses, batch_stats), _ = jax.lax.scan(body, (grads, losses, batch_stats), inputs)
    return grads, losses, batch_stats
