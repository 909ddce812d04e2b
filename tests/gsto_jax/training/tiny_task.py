"""A segmentation task whose network compiles in a moment."""

from functools import cached_property

import flax.linen as nn
import jax
import numpy as np

from gsto_jax import BatchNorm, Conv, Outputs
from gsto_jax.config import Config
from gsto_jax.segmentation.task import SegmentationTask
from tests.gsto_jax.small_task import segmentation_task, values


class Tiny(nn.Module):
    """A network with BatchNorm and two heads, small enough to compile in a moment."""

    bn_momentum: float | jax.Array = 0.99
    frozen_norms: frozenset = frozenset()

    @nn.compact
    def __call__(self, image, train=False):
        x = Conv(4, 3, stride=4, name="conv")(image)
        norm = BatchNorm(momentum=self.bn_momentum, frozen=self.frozen_norms, name="bn")
        x = norm(x, train)
        stage = Conv(3, name="stage")(x)
        return Outputs(Conv(3, use_bias=True, name="head")(x), {"stage3": stage}, {}, {})


class TinyTask(SegmentationTask):
    @cached_property
    def model(self):
        return Tiny(self.config.model.bn_momentum)


def tiny_task(steps=10, sections=(), class_weights=None, seed=0):
    plain = {k: v for k, v in values().items() if k != "data"} | {"seed": seed}
    for name, changes in dict(sections).items():
        plain[name] = plain[name] | changes
    settings = {"config": Config.from_dict(plain), "steps": steps, "class_weights": class_weights}
    return segmentation_task(TinyTask, **settings)


def batch_of(seed=0, side=16):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(90, 250, (4, side, side, 3), np.uint8),
        "label": rng.integers(0, 3, (4, side, side), np.uint8),
        "size": np.full((4, 2), side, np.int32),
    }
