import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.devices.mesh import batch_sharding, make_mesh
from gsto_jax.losses import (
    cross_entropy,
    deep_supervision,
    kth_smallest,
    label_weight_sum,
    ohem_cross_entropy,
)
from gsto_jax.models import Outputs
from gsto_jax.segmentation.metrics import best_class, compute_scores, confusion_matrix
from gsto_jax.training.optimizers import update_ema
from gsto_jax.training.schedules import poly_schedule, with_warmup
from tests.gsto_jax.loss_settings import loss_config


def reference_cases(arrays):
    return sorted({key.rsplit("/", 1)[0] for key in arrays})


def reference_case(arrays, name):
    """Logits `b h w k`, labels and class weights of a golden case."""
    logits = jnp.asarray(arrays[f"{name}/logits"].transpose(0, 2, 3, 1), jnp.float64)
    weights = arrays.get(f"{name}/class_weight")
    return logits, jnp.asarray(arrays[f"{name}/label"]), None if weights is None else tuple(weights)


def assert_gradient(grad, expected, name):
    expected = expected.transpose(0, 2, 3, 1)
    atol = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(grad, expected, rtol=0, atol=atol, err_msg=name)


def test_cross_entropy_equals_reference(golden, x64):
    arrays = golden("e")
    cases = reference_cases(arrays)
    assert len(cases) == 5
    gradients = 0
    for name in cases:
        logits, label, weights = reference_case(arrays, name)
        loss, grad = jax.jit(jax.value_and_grad(cross_entropy))(
            logits, label, class_weights=weights
        )
        np.testing.assert_allclose(loss, arrays[f"{name}/ce_loss"], rtol=1e-6, err_msg=name)
        if f"{name}/ce_grad" in arrays:
            assert_gradient(grad, arrays[f"{name}/ce_grad"], name)
            gradients += 1
    assert gradients == 2


def test_ohem_equals_reference(golden, x64):
    arrays = golden("e")
    for name in reference_cases(arrays):
        logits, label, weights = reference_case(arrays, name)
        threshold, kept = (arrays[f"{name}/{key}"].item() for key in ("thres", "min_kept"))
        loss, grad = jax.jit(jax.value_and_grad(ohem_cross_entropy))(
            logits, label, threshold, kept, class_weights=weights
        )
        np.testing.assert_allclose(loss, arrays[f"{name}/ohem_loss"], rtol=1e-6, err_msg=name)
        assert_gradient(grad, arrays[f"{name}/ohem_grad"], name)


def test_ohem_threshold_is_that_of_the_global_batch():
    """One image of a batch sharded over four devices has all the hard pixels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 8, 8, 5)).astype(np.float32)
    label = rng.integers(0, 5, (4, 8, 8)).astype(np.int32)
    logits[1:] += 8 * np.eye(5, dtype=np.float32)[label[1:]]

    def loss(logits, label):
        return ohem_cross_entropy(logits, label, 0.05, 40)

    single = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), jnp.asarray(label))
    split = batch_sharding(make_mesh(jax.devices()[:4]))
    sharded = jax.jit(jax.value_and_grad(loss), in_shardings=(split, split))(logits, label)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), single, sharded
    )
    p = np.exp(
        -np.asarray(
            jax.jit(jax.vmap(jax.vmap(lambda x, y: cross_entropy(x[None, None], y[None, None]))))(
                logits.reshape(-1, 8, 1, 5), label.reshape(-1, 8, 1)
            )
        )
    ).ravel()
    limit = max(0.05, np.sort(p)[40])
    assert float(single[0]) == pytest.approx(-np.log(p[p < limit]).mean(), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kth_smallest_is_that_of_the_sorted_values(dtype, x64):
    rng, select = np.random.default_rng(1), jax.jit(kth_smallest)
    for size in (1, 2, 17, 1000):
        values = rng.random(size).astype(dtype)
        values[rng.random(size) < 0.3] = values[0]
        values[rng.random(size) < 0.1] = 0
        values[rng.random(size) < 0.1] = np.inf
        for rank in {0, size // 3, size // 2, size - 1}:
            value = select(values, rank)
            assert value.dtype == dtype
            assert float(value) == np.sort(values)[rank]
    assert float(select(np.array([3.0, 2.0], dtype), -1)) == 2


def test_ohem_of_ignored_labels_is_zero():
    loss, grad = jax.jit(jax.value_and_grad(ohem_cross_entropy))(
        jnp.ones((1, 2, 2, 3)), jnp.full((1, 4, 4), 255), 0.9, 10
    )
    assert float(loss) == 0
    assert not np.asarray(grad).any()


def test_label_weight():
    labels = jnp.asarray([[[0, 1, 255, 1]]])
    assert int(label_weight_sum(labels, 2)) == 3
    assert float(label_weight_sum(labels, 2, 255, (0.5, 2.0))) == 4.5


def test_cross_entropy_of_ignored_labels_is_zero():
    logits = jnp.ones((1, 2, 2, 3))
    loss, grad = jax.jit(jax.value_and_grad(cross_entropy))(logits, jnp.full((1, 4, 4), 255))
    assert float(loss) == 0
    assert not np.asarray(grad).any()


def test_any_ignore_label_and_bfloat16_logits():
    logits = jnp.zeros((1, 2, 2, 4), jnp.bfloat16)
    label = jnp.asarray([[[0, 7], [7, 3]]], jnp.uint8)
    loss = cross_entropy(logits, label, ignore_label=7)
    assert loss.dtype == jnp.float32
    assert float(loss) == pytest.approx(np.log(4))


def test_deep_supervision_weights_the_heads():
    zeros, label = jnp.zeros((1, 2, 2, 4)), jnp.zeros((1, 2, 2), jnp.int32)
    outputs = Outputs(zeros, {"stage2": zeros, "stage3": zeros}, {}, {})
    loss, losses = jax.jit(lambda x: deep_supervision(x, label, loss_config()))(outputs)
    assert float(loss) == pytest.approx(1.8 * np.log(4))
    assert set(losses) == {"stage2", "stage3", "stage4"}


def test_ohem_applies_to_the_final_head():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), jnp.float32)
    label = jnp.ones((2, 4, 4), jnp.int32)
    outputs = Outputs(logits, {"stage3": logits}, {}, {})
    config = loss_config(terms=(("ohem", 1.0),), ohem_threshold=0.0, ohem_min_kept=3)
    losses, plain, log_p = jax.jit(
        lambda outputs: (
            deep_supervision(outputs, label, config)[1],
            cross_entropy(outputs.logits, label),
            jax.nn.log_softmax(outputs.logits),
        )
    )(outputs)
    assert float(losses["stage3"]) == pytest.approx(float(plain))
    each = np.sort(-np.asarray(log_p)[..., 1].ravel())[::-1]
    assert float(losses["stage4"]) == pytest.approx(each[: 2 * 3].mean(), rel=1e-5)


@pytest.mark.parametrize("case", ["cm", "cm_absent"])
def test_scores_equal_reference(golden, case):
    arrays = golden("h1")
    logits = arrays[f"{case}/logits"]
    classes = logits.shape[1]
    predictions = jnp.asarray(logits.argmax(1))
    confusion = confusion_matrix(jnp.asarray(arrays[f"{case}/label"]), predictions, classes)
    expected = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{case}/")}
    np.testing.assert_array_equal(confusion, expected["matrix"])
    result = compute_scores(np.asarray(confusion), absent="zero")
    np.testing.assert_allclose(result.iou, expected["iou"], rtol=1e-6)
    assert result.mean_iou == pytest.approx(float(expected["mean_iou"]), rel=1e-6)
    assert result.pixel_accuracy == pytest.approx(float(expected["pixel_acc"]), rel=1e-6)
    assert result.mean_accuracy == pytest.approx(float(expected["mean_acc"]), rel=1e-6)


def test_a_class_leaves_the_mean_only_without_truth_and_prediction():
    confusion = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 4]])
    result = compute_scores(confusion)
    assert result.absent_classes == (2,)
    np.testing.assert_allclose(result.iou, [3 / 6, 0, np.nan, 4 / 6])
    assert result.mean_iou == pytest.approx((3 / 6 + 0 + 4 / 6) / 3)
    # Class 1 has no true pixel: it has no accuracy.
    assert result.mean_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert result.pixel_accuracy == pytest.approx(7 / 10)
    zero = compute_scores(confusion, absent="zero")
    assert zero.absent_classes == ()
    assert zero.mean_iou == pytest.approx((3 / 6 + 4 / 6) / 4)
    with pytest.raises(ValueError, match="'skip'"):
        compute_scores(confusion, absent="skip")


def test_confusion_leaves_out_ignored_and_unknown_labels():
    labels = jnp.asarray([[0, 1, 255, 7, 1]], jnp.uint8)
    predictions = jnp.asarray([[0, 0, 1, 1, 1]], jnp.uint8)
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, 2), [[1, 0], [1, 1]])


def test_summed_counts_do_not_overflow():
    large = np.full((2, 2), 2**31 - 1, np.int32)
    assert compute_scores(large.astype(np.int64) * 4).pixel_accuracy == pytest.approx(0.5)


def test_poly_schedule_equals_reference(golden):
    arrays = {k.split("/")[-1]: v for k, v in golden("h1").items() if "poly/" in k}
    schedule = poly_schedule(float(arrays["base_lr"]), int(arrays["max_iters"]))
    for step, rate in zip(arrays["iters"], arrays["lr"], strict=True):
        assert float(schedule(int(step))) == pytest.approx(float(rate), rel=1e-5, abs=1e-9)


def test_lag_repeats_the_first_rate():
    plain, lagged = poly_schedule(0.1, 10), poly_schedule(0.1, 10, lag=True)
    rates = [float(lagged(n)) for n in range(5)]
    assert rates == pytest.approx([float(plain(n)) for n in (0, 0, 1, 2, 3)])
    assert float(plain(10)) == 0


def test_warmup_rises_to_the_schedule():
    plain = poly_schedule(0.4, 100)
    rate = with_warmup(plain, 10, 0.25)
    assert float(rate(0)) == pytest.approx(0.1)
    assert float(rate(5)) == pytest.approx(float(plain(5)) * 0.625)
    for step in (10, 11, 60):
        assert float(rate(step)) == pytest.approx(float(plain(step)))


def test_averages_forget_their_start():
    tree, update = {"a": np.zeros(2, np.float32)}, jax.jit(update_ema)
    for step in range(3):
        tree = update(tree, {"a": np.ones(2, np.float32)}, 0.9, step)
    remainder = (1 / 10) * (2 / 11) * (3 / 12)
    np.testing.assert_allclose(tree["a"], 1 - remainder, rtol=1e-6)
    late = update({"a": np.zeros(1, np.float32)}, {"a": np.ones(1, np.float32)}, 0.9, 10_000)
    np.testing.assert_allclose(late["a"], 0.1, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 3, 60])
def test_the_best_class_is_the_first_of_the_largest(classes):
    scores = np.random.default_rng(0).integers(0, 9, (2, 5, 7, classes)).astype(np.float32)
    scores[0, 0, 0] = np.inf
    classes_of_pixels = jax.jit(best_class)(scores)
    assert classes_of_pixels.dtype == np.uint8
    np.testing.assert_array_equal(classes_of_pixels, scores.argmax(-1))
