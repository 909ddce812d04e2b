"""Warnings about batches that are large for the recipe or for the training set."""

import pytest

from configs import cityscapes_w48
from gsto_jax.config import TrainConfig
from modes.recipe_warnings import batch_size_warnings


@pytest.mark.parametrize(
    ("batch_size", "recipe", "images", "expected"),
    [
        (12, 0, 30, []),
        (12, 12, 30, []),
        (96, 12, 2975, []),  # 8 times, 30 steps an epoch
        (128, 12, 2975, ["10.7 times"]),
        (150, 12, 2975, ["12.5 times", "19 steps"]),
        (24, 12, 400, ["16 steps"]),
        (512, 0, 2975, []),  # nothing is known of its learning rate
    ],
)
def test_large_batches_are_named(batch_size, recipe, images, expected):
    train = TrainConfig(batch_size=batch_size, recipe_batch_size=recipe, steps=1)
    warnings = batch_size_warnings(train, images)
    assert len(warnings) == len(expected)
    for warning, part in zip(warnings, expected, strict=True):
        assert part in warning and "train.batch_size" in warning


def test_batch_argument_keeps_the_recipe():
    config = cityscapes_w48.get_config("batch=24,batch=48")
    assert (config.train.batch_size, config.train.recipe_batch_size) == (48, 12)
    assert cityscapes_w48.get_config().train.recipe_batch_size == 0
