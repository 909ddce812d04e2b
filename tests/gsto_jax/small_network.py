"""A task whose network is one convolution, for fast tests of the surrounding code."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax.config import Config
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.models.base import Outputs
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.runs.trained import TrainedModel
from gsto_jax.segmentation.protocol import protocol_from_config
from gsto_jax.segmentation.task import SegmentationTask
from tests.gsto_jax.small_task import segmentation_task, values

CLASSES = 4


def convolution(x):
    """A random filter of stride 4, `b h w 3` to `b ceil(h/4) ceil(w/4) 4`, that sees 7 pixels."""
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, CLASSES)).astype(np.float32) / 7
    return jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel),
        (4, 4),
        [(3, 3), (3, 3)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class SmallTask(SegmentationTask):
    """Its network is `convolution`."""

    @property
    def model(self):
        def apply(_, images):
            logits = convolution(images)
            return Outputs(logits, {}, {"stage4": [logits, logits[:, ::2, ::2]]}, {})

        return SimpleNamespace(apply=apply)


class PointwiseTask(SegmentationTask):
    """Its network maps each pixel by itself."""

    @property
    def model(self):
        kernel = np.random.default_rng(1).normal(size=(3, CLASSES)).astype(np.float32)

        def apply(_, images):
            logits = images @ jnp.asarray(kernel)
            return Outputs(logits, {}, {"stage4": [logits]}, {})

        return SimpleNamespace(apply=apply)


def image_of(size, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)


def make_predictor(long_side=0, data=None, task_kind=SmallTask, options=None, **evaluation):
    config = values()
    config["eval"] |= evaluation
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    config["data"] |= {"classes": tuple("abcd"), "palette": palette} | (data or {})
    settings = Config.from_dict({k: v for k, v in config.items() if k != "data"})
    task = segmentation_task(task_kind, config=settings, num_classes=4)
    trained = TrainedModel(task, {}, make_mesh(jax.devices()[:1]), Path("run/7"), config)
    return Predictor(trained, protocol_from_config(config), long_side, **(options or {}))
