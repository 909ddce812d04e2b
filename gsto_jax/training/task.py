"""What is trained: network, normalisation, loss and optimiser, and one step of each kind.

The steps are pure module-level functions of a `Task`, so that the training loop, the tests and
ahead-of-time compilation share them.
"""

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

from gsto_jax.config import Config, ModelConfig
from gsto_jax.devices.mesh import gathered, lanes, placed, platform_of
from gsto_jax.errors import StatisticsError, UserError
from gsto_jax.losses import FINAL, deep_supervision, label_weight
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.hrnet import HRNet, Outputs
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.models.specs import ResNetSpec, variant
from gsto_jax.ops.materialize import materialize
from gsto_jax.ops.padding import replicate_edges
from gsto_jax.ops.resample import enlarge
from gsto_jax.segmentation.metrics import best_class, pixel_counts
from gsto_jax.training.hyperparameters import Hyperparameters, hyperparameters, optimizer
from gsto_jax.training.optim import averaged, poly_schedule, step_schedule, with_warmup

Batch = dict[str, Array]
Maps = dict[str, Array]
Shapes = dict[str, tuple[tuple[int, ...], Any]]
Shares = tuple[Array | float, Array | float]
KERNELS = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}
"""Kinds of devices by the kernels for them."""
EVAL_INPUTS = ("image", "label", "size", "mask")
"""What `eval_step` reads of a batch; the rest of it stays on the host."""


@struct.dataclass
class TrainState:
    """All that changes from step to step.

    Attributes:
      step: how many steps were taken, int32 scalar.
      params: of the network.
      batch_stats: running statistics of BN.
      opt_state: of the optimiser.
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


def network(config: ModelConfig, num_classes: int, lanes: int = 0) -> HRNet | ContextNet:
    """The network that the settings describe; `lanes` of `HRNet`."""
    body = variant(config.variant)
    shared: dict[str, Any] = {
        "num_classes": num_classes,
        "align_corners": config.align_corners,
        "init_name": config.init,
        "bn_momentum": config.bn_momentum,
        "bn_statistics": config.bn_statistics,
        "bn_groups": config.bn_groups,
        "remat": config.remat,
        "implementation": config.kernels,
        "dtype": config.compute_dtype,
        "param_dtype": jnp.promote_types(config.compute_dtype, jnp.float32),
    }
    if isinstance(body, ResNetSpec):
        return ContextNet(body, config.context_net.module, config.context_net.gsto, **shared)
    return HRNet(
        body,
        config.hrnet.gsto,
        head=config.hrnet.head,
        upsample=config.hrnet.upsample,
        attention=config.hrnet.attention_spec,
        lanes=lanes,
        **shared,
    )


@dataclass(frozen=True)
class Task:
    """A segmentation task; `gsto_jax.pose.task.PoseTask` is one of another kind.

    Attributes:
      train_inputs: what the training step reads of a batch; the rest of it stays on the host.
      config: all settings but the data's.
      num_classes: k.
      ignore_label: label of the pixels that do not count.
      mean: RGB mean of the pixels, in 0..1.
      std: RGB standard deviation of the pixels, in 0..1.
      steps: length of the run, for the schedule.
      class_weights: of the loss, one for each class; None for equal ones.
      lanes: of `HRNet`; see `on`.

    Raises:
      UserError: the configuration switches class weights on, and there are none, or not k.
    """

    train_inputs: ClassVar[tuple[str, ...]] = ("image", "label", "size")

    config: Config
    num_classes: int
    ignore_label: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    steps: int = 1
    class_weights: tuple[float, ...] | None = None
    lanes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.config.loss.class_weights and len(self.class_weights or ()) != self.num_classes:
            raise UserError(
                f"config.loss.class_weights is on, and config.data.class_weights holds "
                f"{len(self.class_weights or ())} numbers for {self.num_classes} classes: give one "
                "for each, or switch it off"
            )

    @property
    def loss_weights(self) -> tuple[float, ...] | None:
        """Class weights that the loss uses; None where they are switched off."""
        return self.class_weights if self.config.loss.class_weights else None

    @cached_property
    def model(self) -> HRNet | ContextNet:
        """The network."""
        return network(self.config.model, self.num_classes, self.lanes)

    def on(self, mesh: Mesh) -> Self:
        """The same task, its network and its kernels those for these devices.

        Left to choose, GPUs get XLA's operations, which were as fast (docs/performance.md).

        Raises:
          UserError: `model.implementation` names a kernel for others.
        """
        named, platform = self.config.model.implementation, platform_of(mesh)
        if named.startswith("pallas") and KERNELS[named] != platform:
            raise UserError(
                f"config.model.implementation is {named!r}, and these devices are of the kind "
                f"{platform!r}: use auto or xla"
            )
        # named here, so that nothing traces kernels for other devices
        chosen = "xla" if named == "auto" and platform != "tpu" else named
        model = replace(self.config.model, implementation=chosen)
        return replace(
            self,
            config=replace(self.config, model=model),
            lanes=lanes(mesh) if model.pack else 0,
        )

    @cached_property
    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""
        optim = self.config.optim
        first = (optim.learning_rate, self.steps)
        if optim.schedule == "poly":
            rate = poly_schedule(*first, optim.poly_power, optim.lr_lag)
        else:
            rate = step_schedule(*first, optim.milestones, optim.decay)
        warmup = round(optim.warmup_fraction * self.steps)
        return with_warmup(rate, warmup, optim.warmup_start) if warmup else rate

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the train state."""
        return jax.eval_shape(partial(_first_state, self), abstract_variables(self.model))

    def initial_variables(self) -> dict[str, Any]:
        """The network's variables before training, as NumPy arrays."""
        return initial_variables(self.model, self.config.seed)

    def abstract_batch(self, batch: int, size: Sequence[int], step: str) -> Shapes:
        """Shape and dtype of what a step reads of a batch of pictures (h, w), by name.

        Args:
          batch: how many pictures.
          size: (h, w) of each.
          step: "train" or "eval".
        """
        shapes: Shapes = {
            "image": ((batch, *size, 3), np.uint8),
            "label": ((batch, *size), np.uint8),
            "size": ((batch, 2), np.int32),
        }
        return shapes if step == "train" else shapes | {"mask": ((batch,), np.bool_)}

    def losses(
        self,
        outputs: Outputs,
        batch: Batch,
        shares: Shares = (1.0, 1.0),
        values: Hyperparameters | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Computes the loss of a batch, and each head's own by stage (see `deep_supervision`)."""
        return deep_supervision(
            outputs,
            batch["label"],
            self.config.loss,
            self.ignore_label,
            self.config.model.align_corners,
            self.loss_weights if values is None else values.class_weights,
            shares,
            self.config.model.loss_kernels,
            None if values is None else values.loss,
        )

    def shares(self, parts: Batch) -> Shares:
        """What each part of a batch counts in `losses`, of inputs `parts b ...`."""
        settings = (self.num_classes, self.ignore_label, self.loss_weights)
        counts = jax.vmap(lambda labels: label_weight(labels, *settings))(parts["label"])
        total = counts.sum()
        share = counts / jnp.where(total > 0, total, 1)
        same = jnp.full(share.shape, 1 / len(share))
        return share, same if self.config.loss.kind == "ohem" else share


def abstract_state(task: Task) -> TrainState:
    """Shapes and dtypes of the train state; traced once a task."""
    return task.abstract_state


def placing(task: Task, mesh: Mesh) -> Any:
    """Shardings of the train state: one for each array, or one for all."""
    return placed(abstract_state(task), mesh, task.config.parallel.shard_parameters)


def initial_state(task: Task, mesh: Mesh) -> TrainState:
    """The state before the first step, on the devices of the mesh."""
    return state_of(task, task.initial_variables(), mesh)


def state_of(task: Task, variables: Any, mesh: Mesh) -> TrainState:
    """The state before the first step of a network with these "params" and "batch_stats"."""
    return jax.jit(partial(_first_state, task), out_shardings=placing(task, mesh))(variables)


def _first_state(task: Task, variables: Any) -> TrainState:
    averages = jax.tree.map(jnp.copy, variables) if task.config.optim.ema_decay else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=_optimizer(task, hyperparameters(task, jnp.zeros((), jnp.int32))).init(
            variables["params"]
        ),
        ema=averages,
    )


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


def normalize_padded(task: Task, images: Array, size: Array) -> Array:
    """Normalizes images and fills the padding beside them as `eval.pad` says.

    Args:
      task: holds mean, standard deviation and settings.
      images: `b h w 3` RGB in 0..255, 0 beside the image.
      size: `b 2` integers, rows and columns that are image.

    Returns:
      `b h w 3` float32.
    """
    pad = task.config.eval.pad
    if pad == "mean":
        return normalize(task, images, size)
    return normalize(task, replicate_edges(images, size) if pad == "edge" else images)


def train_step(
    task: Task, state: TrainState, batch: Batch, values: Hyperparameters | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One step of the optimiser.

    With `train.accumulate` the batch passes in that many parts, whose gradients add up to the whole
    batch's, with less memory. BN is what differs: it normalises each part by the part's own
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
        params, batch_stats = gathered((params, batch_stats))
    parts = task.config.train.accumulate
    if parts == 1:
        first = replace(values, bn_momentum=values.bn_momentum[0])
        grads, losses, batch_stats = _gradient(task, params, batch_stats, batch, first)
    else:
        grads, losses, batch_stats = _accumulate(task, params, batch_stats, batch, values)

    optimizer_of_step = _optimizer(task, values)
    updates, opt_state = optimizer_of_step.update(grads, state.opt_state, state.params)
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


def _optimizer(task: Task, values: Hyperparameters) -> optax.GradientTransformation:
    return optimizer(task.config.optim.kind, values)


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
        loss, by_stage = task.losses(outputs, batch, shares, values)
        losses = {"loss": loss} | {f"loss/{stage}": part for stage, part in by_stage.items()}
        return loss, (losses, updates["batch_stats"])

    (_, (losses, new_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return grads, losses, new_stats


def _too_few_values(task: Task, shape: Sequence[int], error: StatisticsError) -> UserError:
    """Names the settings that leave a BatchNorm fewer than two values per channel."""
    train, model = task.config.train, task.config.model
    return UserError(
        f"{str(error).partition(':')[0]} would see fewer than 2 values per channel in training: "
        f"config.train.batch_size is {train.batch_size}, config.train.accumulate "
        f"{train.accumulate} and config.model.bn_groups {model.bn_groups}, so it normalizes "
        f"{shape[0] // model.bn_groups} crops of {shape[1]} x {shape[2]} at a time. Use a larger "
        "batch, less accumulation, fewer groups or a larger config.data.crop"
    )


def _accumulate(
    task: Task, params: Any, batch_stats: Any, batch: Batch, values: Hyperparameters
) -> tuple[Any, dict[str, Array], Any]:
    # Part n is every parts-th picture from n on: of each device's own, so none has to move.
    parts = task.config.train.accumulate
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


def logits(task: Task, variables: Any, images: Array) -> Array:
    """From normalised images `b h w 3` to logits `b h/s w/s k` in at least float32.

    The stride s is `output_stride` of `task.config.model`.
    """
    return _wide(_outputs(task, variables, images).logits)


def _outputs(task: Task, variables: Any, images: Array) -> Outputs:
    outputs = task.model.apply(variables, images)
    assert isinstance(outputs, Outputs)
    return outputs


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def eval_step(task: Task, variables: Any, batch: Batch) -> tuple[dict[str, Array], Array, Maps]:
    """Predicts a batch by one look at whole pictures, and counts it.

    Args:
      task: what was trained.
      variables: of the network.
      batch: "image" `b h w 3` uint8, "label" `b h w`, "size" `b 2` (see `normalize`), "mask" `b`
        bool: False for filling.

    Returns:
      The counts of `gsto_jax.segmentation.metrics.pixel_counts`, the predictions `b h w` uint8, and
      the maps of `score_step`.
    """
    scores, maps = score_step(task, variables, batch)
    predictions = best_class(scores)
    counts = pixel_counts(predictions, batch, task.num_classes, task.ignore_label)
    return counts, predictions, maps


def score_step(task: Task, variables: Any, batch: Batch) -> tuple[Array, Maps]:
    """Scores a batch by one look at whole pictures.

    Args:
      task: what was trained.
      variables: of the network.
      batch: "image" `b h w 3` uint8 and "size" `b 2` (see `normalize`).

    Returns:
      Logits `b h w k` in at least float32, and the maps that explain them, `b h w` float32 each:
      "branch/0" and so on, the mean over the channels of each branch of the last stage (paper,
      Figure 1), and "gate/NAME".
    """
    outputs = _outputs(task, variables, normalize_padded(task, batch["image"], batch["size"]))
    size, corners = batch["image"].shape[1:3], task.config.model.align_corners
    scores = materialize(enlarge(_wide(outputs.logits), size, corners))
    return scores, explanation(outputs)


def explanation(outputs: Outputs) -> Maps:
    """Maps `b h w` float32 that explain what a network saw; see `score_step`."""
    last = outputs.branches[FINAL]
    maps = {f"branch/{n}": x.astype(jnp.float32).mean(-1) for n, x in enumerate(last)}
    return maps | {
        f"gate/{name}": gate[..., 0].astype(jnp.float32) for name, gate in outputs.gates.items()
    }
