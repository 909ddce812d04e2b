"""What is trained: network, normalisation, loss and optimiser, and one step of each kind.

The steps are pure module-level functions of a `Task`, so that the training loop, the tests and
ahead-of-time compilation share them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh

from gsto_jax.config import Config, ModelConfig
from gsto_jax.layers.resize import resize
from gsto_jax.losses import deep_supervision
from gsto_jax.metrics import confusion_matrix
from gsto_jax.models.hrnet import HRNet, Outputs
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.models.specs import variant
from gsto_jax.optim import poly_schedule, sgd
from gsto_jax.parallel import replicated

Batch = dict[str, Array]
TRAIN_INPUTS = ("image", "label", "size")
EVAL_INPUTS = ("image", "label", "mask")
"""What the steps read of a batch; the rest of it stays on the host."""


@struct.dataclass
class TrainState:
    """All that changes from step to step.

    Attributes:
      step: how many steps were taken, int32 scalar.
      params: of the network.
      batch_stats: running statistics of BN.
      opt_state: of the optimiser.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def network(config: ModelConfig, num_classes: int) -> HRNet:
    """The network that the settings describe."""
    return HRNet(
        variant(config.variant),
        config.gsto,
        num_classes,
        upsample=config.upsample,
        align_corners=config.align_corners,
        init_name=config.init,
        bn_momentum=config.bn_momentum,
        dtype=config.compute_dtype,
        param_dtype=jnp.promote_types(config.compute_dtype, jnp.float32),
    )


@dataclass(frozen=True)
class Task:
    """A segmentation task.

    Attributes:
      config: all settings but the data's.
      num_classes: k.
      ignore_label: label of the pixels that do not count.
      mean: RGB mean of the pixels, in 0..1.
      std: RGB standard deviation of the pixels, in 0..1.
      steps: length of the run, for the schedule.
    """

    config: Config
    num_classes: int
    ignore_label: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    steps: int = 1

    @cached_property
    def model(self) -> HRNet:
        """The network."""
        return network(self.config.model, self.num_classes)

    @cached_property
    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""
        optim = self.config.optim
        return poly_schedule(optim.learning_rate, self.steps, optim.poly_power, optim.lr_lag)

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser."""
        optim = self.config.optim
        return sgd(self.schedule, optim.momentum, optim.weight_decay)


def abstract_state(task: Task) -> TrainState:
    """Shapes and dtypes of the train state."""
    variables = abstract_variables(task.model)
    return _state(variables, jax.eval_shape(task.optimizer.init, variables["params"]))


def initial_state(task: Task, mesh: Mesh) -> TrainState:
    """The state before the first step, on every device of the mesh."""
    whole = replicated(mesh)
    variables = jax.device_put(initial_variables(task.model, task.config.seed), whole)
    init = jax.jit(task.optimizer.init, out_shardings=whole)
    return jax.device_put(_state(variables, init(variables["params"])), whole)


def _state(variables: Any, opt_state: Any) -> TrainState:
    step = np.zeros((), np.int32)
    return TrainState(step, variables["params"], variables["batch_stats"], opt_state)


def normalize(task: Task, images: Array, size: Array | None = None) -> Array:
    """Normalises pixels to zero mean and unit deviation, and the padding to zero.

    Args:
      task: holds mean and standard deviation.
      images: `b h w 3` uint8 RGB.
      size: `b 2` integers, rows and columns that are picture; the rest is padding. None: all are.

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


def train_step(task: Task, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """One step of SGD.

    Args:
      task: what is trained.
      state: before the step.
      batch: "image" `b h w 3` uint8, "label" `b h w` integers, "size" `b 2` (see `normalize`).

    Returns:
      The state after the step, and scalars: "loss", "loss/stage2" and so on for each head, and
      "learning_rate".
    """
    images = normalize(task, batch["image"], batch["size"])

    def loss_fn(params: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs, updates = task.model.apply(variables, images, train=True, mutable=["batch_stats"])
        assert isinstance(outputs, Outputs)
        loss, parts = deep_supervision(
            outputs,
            batch["label"],
            task.config.loss.by_stage,
            task.ignore_label,
            task.config.model.align_corners,
        )
        return loss, (parts, updates["batch_stats"])

    (loss, (parts, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = task.optimizer.update(grads, state.opt_state, state.params)
    new_state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    scalars = {"loss": loss, "learning_rate": task.schedule(state.step)}
    return new_state, scalars | {f"loss/{stage}": part for stage, part in parts.items()}


def predict_step(task: Task, variables: Any, images: Array) -> Array:
    """Class of each pixel of whole images, single scale.

    Args:
      task: what was trained.
      variables: of the network.
      images: `b h w 3` uint8 RGB.

    Returns:
      `b h w` uint8.
    """
    outputs = task.model.apply(variables, normalize(task, images))
    assert isinstance(outputs, Outputs)
    logits = outputs.logits.astype(jnp.promote_types(outputs.logits.dtype, jnp.float32))
    corners = task.config.model.align_corners
    return resize(logits, images.shape[1:3], "bilinear", corners).argmax(-1).astype(jnp.uint8)


def eval_step(task: Task, variables: Any, batch: Batch) -> tuple[Array, Array]:
    """Predicts a batch and counts it.

    Args:
      task: what was trained.
      variables: of the network.
      batch: "image" `b h w 3` uint8, "label" `b h w`, "mask" `b` bool: False for filling.

    Returns:
      The confusion matrix `k k` int32 of the batch, and the predictions `b h w` uint8.
    """
    predictions = predict_step(task, variables, batch["image"])
    labels = jnp.where(batch["mask"][:, None, None], batch["label"], task.ignore_label)
    return confusion_matrix(labels, predictions, task.num_classes, task.ignore_label), predictions
