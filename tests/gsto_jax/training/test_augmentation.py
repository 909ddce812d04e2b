"""Photometric augmentation and cutout against independent computations."""

import colorsys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from gsto_jax.config import AugmentConfig
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.errors import UserError
from gsto_jax.training.augmentation import augment
from gsto_jax.training.task import initial_state
from gsto_jax.training.train_step import train_step
from tests.gsto_jax.small_task import MEAN, make_task
from tests.gsto_jax.training.tiny_task import batch_of, tiny_task

SEEDS = np.array([3, 2**32 - 1, 7], np.uint32)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3)).astype(np.uint8)
ALL = {
    **{"brightness": 0.2, "contrast": 0.5, "saturation": 0.5, "hue": 0.1},
    **{"gamma": 1.0, "blur": 1.0, "cutout": 0.5},
}


def augmented(images=IMAGES, seeds=SEEDS, **options):
    function = jax.jit(partial(augment, config=AugmentConfig(**options), mean=MEAN))
    return np.asarray(function(images, seeds))


def uniform(seed):
    """The numbers of an image, in the order brightness, contrast, ..., cutout, row, column."""
    return np.asarray(jax.random.uniform(jax.random.key(seed), (9,)))


@pytest.mark.parametrize("seed", range(3))
def test_pointwise_changes_equal_their_formulas(seed):
    pixels, draws = IMAGES[seed] / 255, uniform(SEEDS[seed])
    signed = 2 * draws - 1

    def result(**options):
        return augmented(IMAGES[seed : seed + 1], SEEDS[seed : seed + 1], **options)[0] / 255

    def by_hls(change):
        rows = [
            colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in pixels.reshape(-1, 3)
        ]
        return np.reshape(rows, pixels.shape)

    tolerance = {"rtol": 0, "atol": 2e-5}
    expected = (pixels + 0.3 * signed[0]).clip(0, 1)
    np.testing.assert_allclose(result(brightness=0.3), expected, **tolerance)
    expected = (MEAN + (1 + 0.5 * signed[1]) * (pixels - MEAN)).clip(0, 1)
    np.testing.assert_allclose(result(contrast=0.5), expected, **tolerance)
    factor = 1 + 0.8 * signed[2]
    expected = by_hls(lambda h, s, v: (h, min(1, s * factor), v))
    np.testing.assert_allclose(result(saturation=0.8), expected, **tolerance)
    expected = by_hls(lambda h, s, v: ((h + 0.25 * signed[3]) % 1, s, v))
    np.testing.assert_allclose(result(hue=0.25), expected, **tolerance)
    expected = pixels ** (3.0 ** signed[4])
    np.testing.assert_allclose(result(gamma=2.0), expected, **tolerance)


def test_blur_equals_scipy():
    result = augmented(blur=2.0) / 255
    for n, seed in enumerate(SEEDS):
        sigma = 2 * uniform(seed)[5]
        kernel = np.exp(-(np.arange(-6, 7) ** 2) / (2 * sigma**2))
        expected = IMAGES[n] / 255
        for axis in (0, 1):
            weights = kernel / kernel.sum()
            expected = scipy.ndimage.convolve1d(expected, weights, axis, mode="nearest")
        np.testing.assert_allclose(result[n], expected, atol=1e-5)


def test_cutout_erases_a_square_inside_the_image():
    seeds = np.arange(300, dtype=np.uint32)
    images = np.full((300, 10, 14, 3), 255, np.uint8)
    erased = (augmented(images, seeds, cutout=0.8) != 255).all(-1)
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    np.testing.assert_array_equal(rows, columns)
    np.testing.assert_array_equal(erased.sum((1, 2)), rows * columns)
    assert set(rows) == set(range(8))  # sides of 0 to 0.8 * 10, excluded
    # All positions occur: also squares in the corners.
    assert erased[:, 0, 0].any() and erased[:, -1, -1].any()
    color = augmented(images, seeds, cutout=0.8)[erased]
    np.testing.assert_allclose(
        color, np.broadcast_to(np.multiply(255, MEAN), color.shape), rtol=1e-6
    )


def test_an_image_is_augmented_the_same_in_any_batch_and_with_any_other_option():
    together = augmented(**ALL)
    order = [2, 0, 1]
    np.testing.assert_array_equal(augmented(IMAGES[order], SEEDS[order], **ALL), together[order])
    assert not np.array_equal(augmented(IMAGES[[0, 0]], SEEDS[[0, 1]], **ALL)[0], together[1])
    np.testing.assert_allclose(augmented(), IMAGES, rtol=1e-6)
    # The square lies where it lies without the other options.
    alone = (np.abs(augmented(cutout=0.5) - IMAGES) > 1e-3).all(-1)
    bright = augmented(brightness=0.2, cutout=0.5)
    np.testing.assert_allclose(
        bright[alone], np.multiply(255, MEAN)[None].repeat(alone.sum(), 0), rtol=1e-6
    )


def test_channels_other_than_rgb():
    images = np.zeros((1, 4, 4, 5), np.uint8)
    result = augment(images, SEEDS[:1], AugmentConfig(brightness=0.5), (0.5,) * 5)
    assert result.shape == images.shape
    for name in ("saturation", "hue"):
        with pytest.raises(UserError, match=rf"config\.augment\.{name} must be 0 .* 5 channels"):
            augment(images, SEEDS[:1], AugmentConfig(**{name: 0.1}), (0.5,) * 5)
        with pytest.raises(UserError, match=rf"config\.augment\.{name} must be 0 .* 1 channels"):
            replace(make_task(1, {"augment": {name: 0.1}}), mean=(0.5,), std=(0.5,))


def test_training_reads_seeds_only_with_augmentation():
    plain, task = tiny_task(2), tiny_task(2, {"augment": ALL})
    assert task.train_inputs == (*plain.train_inputs, "augment_seed")
    for each in (plain, task):
        assert set(each.abstract_batch(4, (64, 64), "train")) == set(each.train_inputs)
    state = initial_state(task, make_mesh(jax.devices()[:1]))
    batch = batch_of()
    halves = {"augment": ALL, "train": {"batch_size": 4, "grad_accum_steps": 2}}
    step = jax.jit(partial(train_step, tiny_task(2, halves)))
    first, second = (
        step(state, batch | {"augment_seed": np.arange(start, start + 4, dtype=np.uint32)})[1]
        for start in (0, 4)
    )
    assert first["finite"] and second["finite"]
    assert first["loss"] != second["loss"]


def test_shards_of_a_batch_are_augmented_alike():
    mesh = make_mesh(jax.devices()[:3])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    inputs = [jax.device_put(x, sharding) for x in (IMAGES, SEEDS)]
    config = replace(AugmentConfig(), **ALL)
    result = jax.jit(partial(augment, config=config, mean=MEAN))(*inputs)
    np.testing.assert_allclose(result, augmented(**ALL), atol=1e-3)
    assert jnp.result_type(result) == jnp.float32
