"""Training and evaluation with images of one and of five channels."""

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.layers.blocks import ConvBN
from gsto_jax.models.base import Network, Outputs
from gsto_jax.ops.checks import check_map
from gsto_jax.segmentation.task import SegmentationTask, eval_step
from gsto_jax.training.task import TrainState, initial_state, normalize
from gsto_jax.training.train_step import train_step
from tests.gsto_jax.small_task import batches, make_task


class TwoConvolutions(Network):
    """A stem of stride 4 and a classifier."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, image, train=False):
        check_map(image, "TwoConvolutions", channels=self.in_channels)
        factories = self.layer_factories("he")
        x = ConvBN(8, 3, stride=4, **factories, name="stem1")(image, train)
        logits = factories["conv"](self.num_classes, 1, use_bias=True, name="head")(x)
        return Outputs(logits, {}, {"stage4": [x]}, {})


class TwoConvolutionsTask(SegmentationTask):
    @cached_property
    def model(self):
        return TwoConvolutions(num_classes=self.num_classes, in_channels=self.in_channels)


def task_of(channels):
    task = make_task(20, {"optim": {"learning_rate": 0.5, "warmup_fraction": 0.0}})
    mean, std = (0.5,) * channels, (0.25,) * channels
    return TwoConvolutionsTask(
        config=task.config, num_classes=3, mean=mean, std=std, platform="cpu", steps=20
    )


def batch_of(channels):
    batch: dict[str, Any] = next(batches())
    image = np.concatenate([batch["image"]] * 2, axis=3)[..., :channels]
    return batch | {"image": np.ascontiguousarray(image)}


@pytest.mark.parametrize("channels", [1, 5])
def test_training_steps(channels):
    task, batch = task_of(channels), batch_of(channels)
    shapes = task.abstract_batch(4, (64, 64), "eval")
    assert all(batch[name].shape == shape for name, (shape, _) in shapes.items())
    state: TrainState = initial_state(task, make_mesh(jax.devices()[:1]))
    assert state.params["stem1"]["conv"]["kernel"].shape == (3, 3, channels, 8)
    inputs = {name: batch[name] for name in task.train_inputs}
    step = jax.jit(partial(train_step, task))
    losses = []
    for _ in range(8):
        state, metrics = step(state, inputs)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    assert bool(metrics["finite"])
    evaluated = {name: batch[name] for name in ("image", "label", "size", "mask")}
    _, labels, _ = jax.jit(partial(eval_step, task))(state.variables, evaluated)
    assert labels.shape == batch["label"].shape


def test_normalization_of_each_channel():
    task = replace(task_of(5), mean=(0.1, 0.2, 0.3, 0.4, 0.5))
    image = batch_of(5)["image"]
    expected = (image / 255 - np.arange(1, 6) / 10) / 0.25
    np.testing.assert_allclose(jax.jit(partial(normalize, task))(image), expected, atol=1e-5)
