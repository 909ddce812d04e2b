"""Prediction of images of other channels than RGB."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.models.base import Outputs
from gsto_jax.predict.single_pass import make_program
from gsto_jax.segmentation.protocol import protocol_from_config
from gsto_jax.segmentation.task import SegmentationTask
from tests.gsto_jax.small_network import CLASSES, image_of, make_predictor


class FirstThreeChannels(SegmentationTask):
    """Its network maps each pixel by itself, and ignores all channels but the first three."""

    @property
    def model(self):
        kernel = np.zeros((max(3, self.in_channels), CLASSES), np.float32)
        kernel[:3] = np.random.default_rng(1).normal(size=(3, CLASSES))
        kernel = kernel if self.in_channels >= 3 else kernel.sum(0, keepdims=True)

        def apply(_, images):
            logits = images @ jnp.asarray(kernel)
            return Outputs(logits, {}, {"stage4": [logits]}, {})

        return SimpleNamespace(apply=apply)


def predictor_of(channels, long_side, **evaluation):
    predictor = make_predictor(long_side, task_kind=FirstThreeChannels, **evaluation)
    trained, mean, std = predictor.trained, (0.4,) * channels, (0.2,) * channels
    data = trained.config["data"] | {"channels": channels, "mean": mean, "std": std}
    config = trained.config | {"data": data}
    task = replace(trained.task, mean=mean, std=std)
    trained = replace(trained, task=task, config=config)
    return replace(predictor, trained=trained, protocol=protocol_from_config(config))


@pytest.mark.parametrize(
    ("long_side", "evaluation"),
    [
        (0, {"pad_to": 32, "pad": "edge"}),
        (0, {"window": "slide", "crop": (32, 32), "flip": True, "pad": "black"}),
        (40, {}),
    ],
    ids=["single", "windows", "downscaled"],
)
def test_other_channels_than_rgb(long_side, evaluation):
    rgb = image_of((50, 60))
    expected = predictor_of(3, long_side, **evaluation)(rgb).labels
    assert len(np.unique(expected)) > 1
    more = np.concatenate([rgb, rgb[..., :2]], axis=2)
    prediction = predictor_of(5, long_side, **evaluation)(more)
    np.testing.assert_array_equal(prediction.labels, expected)
    np.testing.assert_array_equal(prediction.image, rgb)

    copy = np.repeat(rgb[..., :1], 3, axis=2)
    expected = predictor_of(3, long_side, **evaluation)(copy).labels
    prediction = predictor_of(1, long_side, **evaluation)(rgb[..., 0])
    assert np.mean(prediction.labels == expected) > 0.999
    np.testing.assert_array_equal(prediction.image, copy)
    assert prediction.overlay().shape == copy.shape


def test_images_of_another_number_are_refused():
    with pytest.raises(UserError, match="h w 5"):
        predictor_of(5, 0)(image_of((50, 60)))


def test_exported_program():
    predictor = predictor_of(5, 0)
    image = np.concatenate([image_of((32, 64))] * 2, axis=2)[..., :5]
    outputs = jax.jit(make_program(predictor))(image[None])
    np.testing.assert_array_equal(outputs["labels"][0], predictor(image).labels)
