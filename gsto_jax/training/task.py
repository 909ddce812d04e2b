"""What is trained: network, normalization, loss and optimizer, and one step of training.

The steps are pure module-level functions of a `Task`, so that the training loop, the tests and
ahead-of-time compilation share them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh

from gsto_jax.config import Config
from gsto_jax.devices.mesh import all_gather, mesh_platform, tree_shardings
from gsto_jax.errors import StatisticsError, UserError
from gsto_jax.models.base import Outputs
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.training.hyperparameters import Hyperparameters, hyperparameters, optimizer
from gsto_jax.training.network import implementation_on, network
from gsto_jax.training.optim import averaged, poly_schedule, step_schedule, with_warmup

Batch = dict[str, Array]
Shapes = dict[str, tuple[tuple[int, ...], Any]]
Shares = tuple[Array | float, Array | float]


@struct.dataclass
class TrainState:
    """All that changes from step to step.

    Attributes:
      step: how many steps were taken, int32 scalar.
      params: of the network.
      batch_stats: running statistics of BN.
      opt_state: of the optimizer.
      ema: moving averages of both, {"params", "batch_stats"}; None without `optim.ema_decay`.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes to predict: the averages, where there are any."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A network and how it is trained.

    Attributes:
      train_inputs: arrays of a batch that the training step reads; others stay on the host.
      config: all settings but those of the data.
      num_classes: k; of poses j, the number of joints.
      mean: RGB mean of the pixels, in 0..1.
      std: RGB standard deviation of the pixels, in 0..1.
      steps: length of the run, for the schedule.
      platform: of the devices; see `on`.
    """

    train_inputs: ClassVar[tuple[str, ...]]

    config: Config
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    steps: int = 1
    platform: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    @property
    def loss_weights(self) -> tuple[float, ...] | None:
        """Class weights of the loss; None for equal ones."""
        return None

    @cached_property
    def model(self) -> HRNet | ContextNet:
        """The network."""
        return network(self.config.model, self.num_classes, platform=self.platform)

    def on(self, mesh: Mesh) -> Self:
        """Returns the task for the devices of a mesh.

        Raises:
          UserError: `model.implementation` names kernels of other devices.
        """
        platform = mesh_platform(mesh)
        implementation_on(self.config.model.implementation, platform)
        return replace(self, platform=platform)

    @cached_property
    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""
        optim = self.config.optim
        first = (optim.learning_rate, self.steps)
        if optim.schedule == "poly":
            rate = poly_schedule(*first, optim.poly_power, optim.lr_lag)
        else:
            rate = step_schedule(*first, optim.milestones, optim.decay_rate)
        warmup = round(optim.warmup_fraction * self.steps)
        return with_warmup(rate, warmup, optim.warmup_start) if warmup else rate

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the train state."""
        return jax.eval_shape(partial(_first_state, self), abstract_variables(self.model))

    def initial_variables(self) -> dict[str, Any]:
        """The network's variables before training, as NumPy arrays."""
        return initial_variables(self.model, self.config.seed)

    @abstractmethod
    def abstract_batch(self, batch: int, size: Sequence[int], step: str) -> Shapes:
        """Returns shape and dtype of the arrays of a batch that a step reads, by name.

        Args:
          batch: number of images.
          size: (h, w) of each.
          step: "train" or "eval".
        """

    @abstractmethod
    def losses(
        self,
        outputs: Outputs,
        batch: Batch,
        shares: Shares = (1.0, 1.0),
        values: Hyperparameters | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Computes the loss of a batch, and that of each head by stage.

        Args:
          outputs: of the network.
          batch: `train_inputs`.
          shares: see `gsto_jax.losses.deep_supervision`.
          values: of the step; None: those of the configuration.
        """

    @abstractmethod
    def shares(self, parts: Batch) -> Shares:
        """Computes the weight of each part of a batch in `losses`, of inputs `parts b ...`."""


def abstract_state(task: Task) -> TrainState:
    """Shapes and dtypes of the train state; traced once a task."""
    return task.abstract_state


def placing(task: Task, mesh: Mesh) -> Any:
    """Shardings of the train state: one for each array, or one for all."""
    return tree_shardings(abstract_state(task), mesh, task.config.parallel.shard_parameters)


def initial_state(task: Task, mesh: Mesh) -> TrainState:
    """The state before the first step, on the devices of the mesh."""
    return state_of(task, task.initial_variables(), mesh)


def state_of(task: Task, variables: Any, mesh: Mesh) -> TrainState:
    """The state before the first step of a network with these "params" and "batch_stats"."""
    return jax.jit(partial(_first_state, task), out_shardings=placing(task, mesh))(variables)


def _first_state(task: Task, variables: Any) -> TrainState:
    step, params = jnp.zeros((), jnp.int32), variables["params"]
    first = optimizer(task.config.optim.kind, hyperparameters(task, step))
    averages = jax.tree.map(jnp.copy, variables) if task.config.optim.ema_decay else None
    return TrainState(step, params, variables["batch_stats"], first.init(params), averages)


def normalize(task: Task, images: Array, size: Array | None = None) -> Array:
    """Normalizes pixels to zero mean and unit deviation, and the padding to zero.

    Args:
      task: holds mean and standard deviation.
      images: `b h w 3` uint8 RGB.
      size: `b 2` integers, rows and columns that are image; the rest is padding. None: all are.

    Returns:
      `b h w 3` float32.
    """
    mean, std = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (task.mean, task.std))
    x = (images.astype(jnp.float32) / 255 - mean) / std
    if size is None:
        return x
    rows = jnp.arange(x.shape[1])[None, :] < size[:, 0, None]
    columns = jnp.arange(x.shape[2])[None, :] < size[:, 1, None]
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], x, 0)


def train_step(
    task: Task, state: TrainState, batch: Batch, values: Hyperparameters | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One step of the optimizer.

    With `train.grad_accum_steps` the batch passes in parts, whose gradients add up to the whole
    batch's, with less memory. BN is what differs: it normalizes each part by the part's own
    statistics, and its running statistics move once a part. With OHEM the last head differs too:
    every part has a threshold of its own, and counts as one of so many.

    Args:
      task: what is trained.
      state: before the step.
      batch: `task.train_inputs`: "image" `b h w 3` uint8, "label" `b h w` integers, "size" `b 2`
        (see `normalize`); or those of a pose.
      values: numbers of this step; None: those of the task, as constants of the program.

    Returns:
      The state after the step, and scalars: "loss", "loss/stage2" and so on for each head,
      "learning_rate", "gradient_norm", and "finite", whether loss, gradient and state are.
    """
    if values is None:
        values = hyperparameters(task, state.step)
    params, batch_stats = state.params, state.batch_stats
    if task.config.parallel.shard_parameters:
        params, batch_stats = all_gather((params, batch_stats))
    parts = task.config.train.grad_accum_steps
    if parts == 1:
        first = replace(values, bn_momentum=values.bn_momentum[0])
        grads, losses, batch_stats = _gradient(task, params, batch_stats, batch, first)
    else:
        grads, losses, batch_stats = _accumulate(task, params, batch_stats, batch, values)

    of_step = optimizer(task.config.optim.kind, values)
    updates, opt_state = of_step.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        current = {"params": params, "batch_stats": batch_stats}
        ema = averaged(ema, current, values.ema_decay, state.step)
    new_state = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
    norm, new = optax.tree.norm(grads), (params, batch_stats)
    scalars = losses | {
        "learning_rate": values.learning_rate,
        "gradient_norm": norm,
        "finite": jnp.isfinite(jnp.stack([losses["loss"], norm, *map(optax.tree.norm, new)])).all(),
    }
    return new_state, scalars


def _gradient(
    task: Task,
    params: Any,
    batch_stats: Any,
    batch: Batch,
    values: Hyperparameters,
    shares: Shares = (1.0, 1.0),
) -> tuple[Any, dict[str, Array], Any]:
    """Returns gradient, losses and new running statistics of a batch; `shares` of `Task.losses`."""
    model = task.model.clone(bn_momentum=values.bn_momentum)
    images = normalize(task, batch["image"], batch.get("size"))

    def loss_fn(params: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
        variables = {"params": params, "batch_stats": batch_stats}
        try:
            outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        except StatisticsError as error:
            raise _too_few_values(task, images.shape, error) from None
        assert isinstance(outputs, Outputs)
        loss, head_weights = task.losses(outputs, batch, shares, values)
        losses = {"loss": loss} | {f"loss/{stage}": part for stage, part in head_weights.items()}
        return loss, (losses, updates["batch_stats"])

    (_, (losses, new_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return grads, losses, new_stats


def _too_few_values(task: Task, shape: Sequence[int], error: StatisticsError) -> UserError:
    """Names the settings that leave a BatchNorm fewer than two values per channel."""
    train, model = task.config.train, task.config.model
    return UserError(
        f"{str(error).partition(':')[0]} would see fewer than 2 values per channel in training: "
        f"config.train.batch_size is {train.batch_size}, config.train.grad_accum_steps "
        f"{train.grad_accum_steps} and config.model.bn_groups {model.bn_groups}, so it normalizes "
        f"{shape[0] // model.bn_groups} crops of {shape[1]} x {shape[2]} at a time. Use a larger "
        "batch, less accumulation, fewer groups or a larger config.data.crop"
    )


def _accumulate(
    task: Task, params: Any, batch_stats: Any, batch: Batch, values: Hyperparameters
) -> tuple[Any, dict[str, Array], Any]:
    # Part n is every parts-th image from n on: of each device's own, so none has to move.
    parts = task.config.train.grad_accum_steps
    split = {k: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}
    shares = task.shares(split)

    def body(carry: Any, part: Any) -> tuple[Any, None]:
        grads, losses, batch_stats = carry
        batch, shares, momentum = part
        of_part = replace(values, bn_momentum=momentum)
        new_grads, new_losses, batch_stats = _gradient(
            task, params, batch_stats, batch, of_part, shares
        )
        add = partial(jax.tree.map, jnp.add)
        return (add(grads, new_grads), add(losses, new_losses), batch_stats), None

    first, one, momentum = jax.tree.map(lambda x: x[0], (split, shares, values.bn_momentum))
    of_first = replace(values, bn_momentum=momentum)
    shapes = jax.eval_shape(partial(_gradient, task), params, batch_stats, first, of_first, one)
    grads, losses, _ = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    start = (grads, losses, batch_stats)
    (grads, losses, batch_stats), _ = jax.lax.scan(body, start, (split, shares, values.bn_momentum))
    return grads, losses, batch_stats
