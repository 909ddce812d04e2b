"""Loss terms against values that NumPy computes from their definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.config.sections import LOSS_TERMS
from gsto_jax.devices.mesh import batch_sharding, make_mesh
from gsto_jax.errors import UserError
from gsto_jax.losses import (
    cross_entropy,
    deep_supervision,
    dice_loss,
    focal_loss,
    lovasz_softmax,
    ohem_cross_entropy,
)
from gsto_jax.models import Outputs
from tests.gsto_jax.loss_settings import loss_config

IGNORE = 255
CLASSES = 4  # of which no label has the last one
WEIGHTS = (0.5, 2.0, 1.5, 3.0)
SMOOTHING = 0.2


def case(shape=(2, 3, 4), scale=2.0, seed=0):
    """Logits `b h w k` at the size of the labels, and labels with ignored pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES - 1, shape)
    labels[rng.random(shape) < 0.2] = IGNORE
    return scale * rng.standard_normal((*shape, CLASSES)), labels


def valid_pixels(logits, labels):
    """Probabilities `n k` and classes `n` of the pixels that are not ignored."""
    valid = labels != IGNORE
    exponentials = np.exp(logits[valid])
    return exponentials / exponentials.sum(-1, keepdims=True), labels[valid]


def mean_of_classes(losses, weights):
    """The weighted mean of losses by class."""
    return sum(weights[k] * loss for k, loss in losses.items()) / sum(weights[k] for k in losses)


def expected_smooth(p, y, w):
    target = (1 - SMOOTHING) * np.eye(CLASSES)[y] + SMOOTHING / CLASSES
    return (w[y] * -(target * np.log(p)).sum(1)).sum() / w[y].sum()


def expected_smooth_ohem(p, y, w):
    true = p[np.arange(len(y)), y]
    hard = true < 0.4
    target = (1 - SMOOTHING) * np.eye(CLASSES)[y] + SMOOTHING / CLASSES
    return (w[y] * -(target * np.log(p)).sum(1))[hard].mean()


def expected_focal(p, y, w):
    true = p[np.arange(len(y)), y]
    return (w[y] * -((1 - true) ** 1.5) * np.log(true)).sum() / w[y].sum()


def expected_dice(p, y, w):
    losses = {}
    for k in sorted({*y.tolist()}):
        intersection = sum(p[n, k] for n in range(len(y)) if y[n] == k)
        losses[k] = 1 - 2 * intersection / (p[:, k].sum() + np.sum(y == k))
    return mean_of_classes(losses, w)


def expected_lovasz(p, y, w):
    """The Jaccard loss of the pixels with an error of at least t, integrated over t."""
    losses = {}
    for k in sorted({*y.tolist()}):
        truth = y == k
        errors = np.where(truth, 1 - p[:, k], p[:, k])
        total, below = 0.0, 0.0
        for t in np.unique(errors):
            wrong = errors >= t
            predicted = truth ^ wrong
            total += (t - below) * (1 - (truth & predicted).sum() / (truth | predicted).sum())
            below = t
        losses[k] = total
    return mean_of_classes(losses, w)


LOSSES = {
    "smooth": (partial(cross_entropy, label_smoothing=SMOOTHING), expected_smooth),
    "smooth_ohem": (
        partial(ohem_cross_entropy, threshold=0.4, min_kept=0, label_smoothing=SMOOTHING),
        expected_smooth_ohem,
    ),
    "focal": (partial(focal_loss, gamma=1.5), expected_focal),
    "dice": (dice_loss, expected_dice),
    "lovasz": (lovasz_softmax, expected_lovasz),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
def test_losses_equal_their_definitions(name, x64):
    loss, expected = LOSSES[name]
    logits, labels = case()
    plain = jax.jit(loss)(logits, labels)
    p, y = valid_pixels(logits, labels)
    np.testing.assert_allclose(plain, expected(p, y, np.ones(CLASSES)), rtol=1e-12)
    weighted = jax.jit(partial(loss, class_weights=WEIGHTS))(logits, labels)
    np.testing.assert_allclose(weighted, expected(p, y, np.array(WEIGHTS)), rtol=1e-12)
    # Class 2 as ignore label is like its pixels being ignored.
    ignored = jax.jit(partial(loss, ignore_label=2))(logits, labels)
    p, y = valid_pixels(logits, np.where(labels == 2, IGNORE, labels))
    np.testing.assert_allclose(ignored, expected(p, y, np.ones(CLASSES)), rtol=1e-12)


@each_loss
def test_gradients_equal_finite_differences(name, x64):
    loss = partial(LOSSES[name][0], class_weights=WEIGHTS)
    logits, _ = case((1, 2, 2))
    labels = case((1, 4, 4), seed=1)[1]
    steps = 1e-6 * np.eye(logits.size).reshape(-1, *logits.shape)

    @jax.jit
    def compute(x):
        differences = jax.vmap(lambda step: loss(x + step, labels) - loss(x - step, labels))(steps)
        return jax.grad(loss)(x, labels), differences / 2e-6

    gradient, differences = compute(jnp.asarray(logits))
    assert np.abs(differences).max() > 0.01
    np.testing.assert_allclose(gradient.ravel(), differences, rtol=1e-5, atol=1e-8)


@each_loss
def test_extreme_cases_have_finite_gradients(name):
    """All ignored; all certain and right, where p is exactly 1; all certain and wrong."""
    logits, labels = case()
    certain = 200 * np.eye(CLASSES)[np.where(labels == IGNORE, 0, labels)]
    compute = jax.jit(jax.value_and_grad(partial(LOSSES[name][0], class_weights=WEIGHTS)))
    for x, y in (
        (logits, np.full_like(labels, IGNORE)),
        (certain, labels),
        (-certain, labels),
    ):
        value, gradient = compute(jnp.asarray(x, jnp.float32), y)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        if (y == IGNORE).all():
            assert value == 0 and not np.asarray(gradient).any()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_exponent(gamma):
    logits, labels = case()
    certain = np.where(np.arange(CLASSES) == labels[..., None], 200.0, logits)
    x = jnp.asarray(np.where(labels[..., None] == 0, certain, logits), jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(partial(focal_loss, gamma=gamma)))(x, labels)
    assert np.isfinite(gradient).all()
    if gamma == 0:
        assert float(value) == pytest.approx(float(cross_entropy(x, labels)), rel=1e-6)


def test_certain_predictions_give_dice_and_iou():
    """Class 0: 2 of 3 right, 1 false; class 1: 1 of 2 right, 1 false; the last one is ignored."""
    labels = np.array([[[0, 0, 0, 1, 1, IGNORE]]])
    predictions = np.array([[[0, 0, 1, 0, 1, 2]]])
    logits = jnp.asarray(200 * np.eye(3)[predictions], jnp.float32)
    dice, lovasz = jax.jit(lambda x: (dice_loss(x, labels), lovasz_softmax(x, labels)))(logits)
    assert float(dice) == pytest.approx(1 - (2 * 2 / (3 + 3) + 2 * 1 / (2 + 2)) / 2)
    assert float(lovasz) == pytest.approx(1 - (2 / 4 + 1 / 3) / 2)


def test_region_losses_are_those_of_the_global_batch():
    logits, labels = case((4, 8, 8))
    logits = logits.astype(np.float32)

    def loss(logits, labels):
        return dice_loss(logits, labels) + lovasz_softmax(logits, labels)

    single = jax.jit(jax.value_and_grad(loss))(logits, labels)
    for mesh in (make_mesh(jax.devices()[:4]), make_mesh(jax.devices()[:4], spatial_shards=2)):
        split = batch_sharding(mesh)
        sharded = jax.jit(jax.value_and_grad(loss), in_shardings=(split, split))(logits, labels)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), single, sharded
        )


def test_terms_of_each_head_are_summed():
    logits, labels = case((2, 4, 4))
    outputs = Outputs(jnp.asarray(logits), {"stage3": jnp.asarray(-logits)}, {}, {})
    config = loss_config(
        terms=tuple((name, 0.5 + n) for n, name in enumerate(LOSS_TERMS)),
        head_terms=(("dice", 2.0),),
        stage_weights=(0, 0, 0.25, 1.0),
        focal_gamma=1.5,
        label_smoothing=0.1,
        ohem_threshold=0.4,
        ohem_min_kept=0,
        class_weights=True,
    )
    total, losses = jax.jit(
        lambda outputs: deep_supervision(
            outputs, labels, config, class_weights=WEIGHTS, microbatch_weights=(0.25, 0.5)
        )
    )(outputs)
    weighted = {"class_weights": WEIGHTS}
    smoothed = weighted | {"label_smoothing": 0.1}
    expected = jax.jit(
        lambda x: {
            "ce": 0.25 * cross_entropy(x, labels, **smoothed),
            "ohem": 0.5 * ohem_cross_entropy(x, labels, 0.4, 0, **smoothed),
            "focal": 0.25 * focal_loss(x, labels, 1.5, **weighted),
            "dice": 0.5 * dice_loss(x, labels, **weighted),
            "lovasz": 0.5 * lovasz_softmax(x, labels, **weighted),
        }
    )(outputs.logits)
    for name, value in expected.items():
        np.testing.assert_allclose(losses[f"stage4/{name}"], value, rtol=1e-6)
    final = sum((0.5 + n) * expected[name] for n, name in enumerate(LOSS_TERMS))
    np.testing.assert_allclose(losses["stage4"], final, rtol=1e-6)
    head = 2.0 * 0.5 * dice_loss(outputs.stage_logits["stage3"], labels, **weighted)
    np.testing.assert_allclose(losses["stage3"], head, rtol=1e-6)
    np.testing.assert_allclose(total, losses["stage4"] + 0.25 * losses["stage3"], rtol=1e-6)
    assert losses.keys() == {"stage3", "stage4", *(f"stage4/{name}" for name in LOSS_TERMS)}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"terms": ()}, "terms"),
        ({"terms": (("ce", 1.0), ("ce", 2.0))}, "terms"),
        ({"terms": (("tversky", 1.0),)}, "terms"),
        ({"terms": (("ce", 0.0),)}, "terms"),
        ({"terms": ("ce",)}, "terms"),
        ({"terms": "dice"}, "terms"),
        ({"head_terms": (("dice", -1.0),)}, "head_terms"),
        ({"focal_gamma": -1.0}, "focal_gamma"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        (
            {
                "terms": (("dice", 1.0),),
                "head_terms": (("focal", 1.0),),
                "label_smoothing": 0.1,
            },
            "label_smoothing",
        ),
    ],
)
def test_invalid_terms(changes, name):
    with pytest.raises(UserError, match=rf"^config\.loss\.{name} must be .*; got "):
        loss_config(**changes)
