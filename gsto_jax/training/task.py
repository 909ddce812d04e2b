"""Training task: network, loss, optimizer, and the train state."""

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
from gsto_jax.devices.mesh import mesh_platform, tree_shardings
from gsto_jax.losses import MicrobatchWeights
from gsto_jax.models.base import Outputs
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.training.augmentation import check_augment
from gsto_jax.training.hyperparameters import Hyperparameters, step_hyperparameters
from gsto_jax.training.network import build_network, resolve_implementation
from gsto_jax.training.optimizers import make_optimizer
from gsto_jax.training.parameter_groups import (
    Frozen,
    frozen_part,
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
    opt_state = task_optimizer(task, step_hyperparameters(task, step)).init(trained)
    ema = jax.tree.map(jnp.copy, variables) if task.config.optim.ema_decay else None
    return TrainState(step, params, variables["batch_stats"], opt_state, ema)


def task_optimizer(task: Task, hyperparameters: Hyperparameters) -> optax.GradientTransformation:
    """Returns the optimizer of the trained parameters."""
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
