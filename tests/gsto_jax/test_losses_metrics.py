import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.losses import cross_entropy, deep_supervision
from gsto_jax.metrics import confusion_matrix, scores
from gsto_jax.models import Outputs
from gsto_jax.optim import poly_schedule


def reference_cases(arrays):
    """Names of the golden cases without class weights."""
    names = {key.rsplit("/", 1)[0] for key in arrays}
    return sorted(name for name in names if f"{name}/class_weight" not in arrays)


def test_cross_entropy_equals_reference(golden, x64):
    arrays = golden("e")
    cases = reference_cases(arrays)
    assert len(cases) >= 3
    gradients = 0
    for name in cases:
        logits = jnp.asarray(arrays[f"{name}/logits"].transpose(0, 2, 3, 1), jnp.float64)
        label = jnp.asarray(arrays[f"{name}/label"])
        loss, grad = jax.value_and_grad(cross_entropy)(logits, label)
        np.testing.assert_allclose(loss, arrays[f"{name}/ce_loss"], rtol=1e-6, err_msg=name)
        if f"{name}/ce_grad" in arrays:
            expected = arrays[f"{name}/ce_grad"].transpose(0, 2, 3, 1)
            atol = 1e-6 * np.abs(expected).max()
            np.testing.assert_allclose(grad, expected, rtol=0, atol=atol, err_msg=name)
            gradients += 1
    assert gradients >= 1


def test_nothing_to_learn_is_zero_and_not_nan():
    logits = jnp.ones((1, 2, 2, 3))
    loss, grad = jax.value_and_grad(cross_entropy)(logits, jnp.full((1, 4, 4), 255))
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
    weights = {"stage1": 0.2, "stage2": 0.3, "stage3": 0.5, "stage4": 1.0}
    loss, parts = deep_supervision(outputs, label, weights)
    assert float(loss) == pytest.approx(1.8 * np.log(4))
    assert set(parts) == {"stage2", "stage3", "stage4"}


@pytest.mark.parametrize("case", ["cm", "cm_absent"])
def test_scores_equal_reference(golden, case):
    arrays = golden("h1")
    logits = arrays[f"{case}/logits"]
    classes = logits.shape[1]
    predictions = jnp.asarray(logits.argmax(1))
    confusion = confusion_matrix(jnp.asarray(arrays[f"{case}/label"]), predictions, classes)
    expected = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{case}/")}
    np.testing.assert_array_equal(confusion, expected["matrix"])
    result = scores(np.asarray(confusion), absent="zero")
    np.testing.assert_allclose(result.iou, expected["iou"], rtol=1e-6)
    assert result.mean_iou == pytest.approx(float(expected["mean_iou"]), rel=1e-6)
    assert result.pixel_accuracy == pytest.approx(float(expected["pixel_acc"]), rel=1e-6)
    assert result.mean_accuracy == pytest.approx(float(expected["mean_acc"]), rel=1e-6)


def test_a_class_leaves_the_mean_only_without_truth_and_prediction():
    confusion = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 4]])
    result = scores(confusion)
    assert result.left_out == (2,)
    np.testing.assert_allclose(result.iou, [3 / 6, 0, np.nan, 4 / 6])
    assert result.mean_iou == pytest.approx((3 / 6 + 0 + 4 / 6) / 3)
    # Class 1 has no true pixel: it has no accuracy.
    assert result.mean_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert result.pixel_accuracy == pytest.approx(7 / 10)
    zero = scores(confusion, absent="zero")
    assert zero.left_out == ()
    assert zero.mean_iou == pytest.approx((3 / 6 + 4 / 6) / 4)
    with pytest.raises(ValueError, match="'skip'"):
        scores(confusion, absent="skip")


def test_confusion_leaves_out_ignored_and_unknown_labels():
    labels = jnp.asarray([[0, 1, 255, 7, 1]], jnp.uint8)
    predictions = jnp.asarray([[0, 0, 1, 1, 1]], jnp.uint8)
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, 2), [[1, 0], [1, 1]])


def test_summed_counts_do_not_overflow():
    large = np.full((2, 2), 2**31 - 1, np.int32)
    assert scores(large.astype(np.int64) * 4).pixel_accuracy == pytest.approx(0.5)


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
