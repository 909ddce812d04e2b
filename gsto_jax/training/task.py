"""Training task (network, loss, optimizer) and the train step, a pure module-level function."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Int, Real

from gsto_jax.config import Config
from gsto_jax.devices.mesh import all_gather, mesh_platform, tree_shardings
from gsto_jax.errors import StatisticsError
from gsto_jax.losses import MicrobatchWeights
from gsto_jax.models.base import Outputs
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.training.augmentation import augment, check_augment
from gsto_jax.training.hyperparameters import Hyperparameters, step_hyperparameters
from gsto_jax.training.network import batch_norm_error, build_network, resolve_implementation
from gsto_jax.training.optimizers import make_optimizer, update_ema
from gsto_jax.training.parameter_groups import (
    Frozen,
    frozen_part,
    merge,
    rate_factors,
    split,
    undecayed,
    with_rate_factors,
)
from gsto_jax.training.schedules import make_schedule

AUGMENT_SEED = "augment_seed"
"""Name of the array `b` uint32 of a batch that seeds the augmentation of each image."""
Batch = dict[str, Array]
BatchShapes = dict[str, tuple[tuple[int, ...], Any]]
"""Shape and dtype of each array of a batch, by name."""


@struct.dataclass
class TrainState:
    """State that changes from step to step.

    Attributes:
      step: number of completed steps, int32 scalar.
      params: parameters of the network.
      batch_stats: running statistics of BN.
      opt_state: state of the optimizer.
      ema: EMA of {"params", "batch_stats"}; None without `optim.ema_decay`.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Variables of `model.apply` for prediction: the EMA, if there is one."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A network with its loss and training recipe.

    Attributes:
      train_arrays: names of the arrays of a batch that the train step always reads.
      config: all options except the data options.
      num_classes: `k`, or the number of joints `j`.
      mean: mean of the pixels in each channel, 0 to 1; three for RGB.
      std: standard deviation of the pixels in each channel, 0 to 1.
      steps: length of the run, for the learning-rate schedule.
      platform: "cpu", "gpu" or "tpu"; see `for_mesh`.

    Raises:
      UserError: augmentation that the channels do not have.
    """

    train_arrays: ClassVar[tuple[str, ...]]

    config: Config
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: int = 1
    platform: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        check_augment(self.config.augment, self.in_channels)

    @property
    def train_inputs(self) -> tuple[str, ...]:
        """Names of the arrays of a batch that the train step reads."""
        return (*self.train_arrays, *self.abstract_seeds(1))

    @property
    def loss_class_weights(self) -> tuple[float, ...] | None:
        """Class weights of the loss; None for equal weights."""
        return None

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)

    @cached_property
    def model(self) -> HRNet | ContextNet:
        """The network."""
        return build_network(
            self.config.model,
            self.num_classes,
            in_channels=self.in_channels,
            platform=self.platform,
        )

    def for_mesh(self, mesh: Mesh) -> Self:
        """Returns the task for the devices of a mesh.

        Raises:
          UserError: `model.implementation` is for another platform.
        """
        platform = mesh_platform(mesh)
        resolve_implementation(self.config.model.implementation, platform)
        return replace(self, platform=platform)

    @cached_property
    def schedule(self) -> optax.Schedule:
        """Learning-rate schedule."""
        return make_schedule(self.config.optim, self.steps)

    @cached_property
    def abstract_variables(self) -> Any:
        """Shapes and dtypes of the variables of the network."""
        return abstract_variables(self.model)

    @cached_property
    def frozen(self) -> Frozen:
        """Frozen part of the network. Raises UserError for an invalid pattern."""
        model = self.config.model
        has_frozen = model.freeze or model.freeze_bn
        return frozen_part(model, self.abstract_variables) if has_frozen else Frozen()

    @cached_property
    def rate_factors(self) -> dict[str, float]:
        """Factors of the learning rate by parameter. Raises UserError for an invalid pattern."""
        params = self.abstract_variables["params"] if self.config.optim.rates else {}
        return rate_factors(self.config.optim, params, self.frozen.params)

    @cached_property
    def undecayed(self) -> frozenset[str]:
        """Paths of parameters without weight decay. Raises UserError for an invalid pattern."""
        params = self.abstract_variables["params"] if self.config.optim.no_decay else {}
        return undecayed(self.config.optim, params, self.frozen.params)

    def check_patterns(self) -> None:
        """Raises UserError for a pattern of parameters that matches none of them."""
        _ = self.frozen, self.rate_factors, self.undecayed

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the train state."""
        return jax.eval_shape(partial(_create_state, self), self.abstract_variables)

    def initial_variables(self) -> dict[str, Any]:
        """Returns the initial variables of the network as NumPy arrays."""
        return initial_variables(self.model, self.config.seed)

    def abstract_seeds(self, batch_size: int) -> BatchShapes:
        """Returns shape and dtype of the augmentation's seeds; {} without `augment` options."""
        if not self.config.augment.is_enabled:
            return {}
        return {AUGMENT_SEED: ((batch_size,), np.uint32)}

    @abstractmethod
    def abstract_batch(self, batch_size: int, size: Sequence[int], step: str) -> BatchShapes:
        """Returns shape and dtype of the arrays of a batch that a step reads.

        Args:
          batch_size: number of images.
          size: (h, w) of an image.
          step: "train" or "eval".
        """

    @abstractmethod
    def losses(
        self,
        outputs: Outputs,
        batch: Batch,
        microbatch_weights: MicrobatchWeights = (1.0, 1.0),
        hyperparameters: Hyperparameters | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Computes the total loss of a batch and the loss of each head by stage.

        Args:
          outputs: outputs of the network.
          batch: arrays of `train_inputs`.
          microbatch_weights: see `microbatch_weights`.
          hyperparameters: hyperparameters of the step; None for the values of the config.
        """

    def microbatch_weights(self, microbatches: Batch) -> MicrobatchWeights:
        """Computes the weights `n` of microbatches `n b ...`, here equal ones."""
        equal = jnp.full(len(microbatches["image"]), 1 / len(microbatches["image"]))
        return equal, equal


def state_shardings(task: Task, mesh: Mesh) -> Any:
    """Returns the shardings of the train state: one per array, or one for all."""
    return tree_shardings(task.abstract_state, mesh, task.config.parallel.shard_parameters)


def initial_state(task: Task, mesh: Mesh) -> TrainState:
    """Creates the train state of step 0 on the devices of a mesh."""
    return create_state(task, task.initial_variables(), mesh)


def create_state(task: Task, variables: Any, mesh: Mesh) -> TrainState:
    """Creates the train state of step 0 from {"params", "batch_stats"}, on a mesh."""
    create = jax.jit(partial(_create_state, task), out_shardings=state_shardings(task, mesh))
    state: TrainState = create(variables)
    return state


def _create_state(task: Task, variables: Any) -> TrainState:
    step, params = jnp.zeros((), jnp.int32), variables["params"]
    trained, _ = split(params, task.frozen.params)
    opt_state = _optimizer(task, step_hyperparameters(task, step)).init(trained)
    ema = jax.tree.map(jnp.copy, variables) if task.config.optim.ema_decay else None
    return TrainState(step, params, variables["batch_stats"], opt_state, ema)


def _optimizer(task: Task, hyperparameters: Hyperparameters) -> optax.GradientTransformation:
    optimizer = make_optimizer(
        task.config.optim,
        learning_rate=hyperparameters.learning_rate,
        momentum=hyperparameters.momentum,
        weight_decay=hyperparameters.weight_decay,
        clip_norm=hyperparameters.clip_norm,
        undecayed=task.undecayed,
    )
    return with_rate_factors(optimizer, task.rate_factors)


def normalize(
    task: Task, images: Real[Array, "b h w c"], size: Int[Array, "b 2"] | None = None
) -> Float[Array, "b h w c"]:
    """Normalizes pixels to zero mean and unit standard deviation, and sets padding to zero.

    Args:
      task: task with mean and standard deviation.
      images: pixels in 0..255.
      size: height and width of each image without padding; None if there is no padding.
    """
    mean, std = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (task.mean, task.std))
    x = (images.astype(jnp.float32) / 255 - mean) / std
    if size is None:
        return x
    rows = jnp.arange(x.shape[1])[None, :] < size[:, 0, None]
    columns = jnp.arange(x.shape[2])[None, :] < size[:, 1, None]
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], x, 0)


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

    optimizer = _optimizer(task, hyperparameters)
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
