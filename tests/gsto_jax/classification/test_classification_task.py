"""The classification task: loss, accuracies, result files, options."""

import jax
import numpy as np
import pytest

from gsto_jax.classification.metrics import accuracies, class_accuracies, rank_of_class
from gsto_jax.classification.results import (
    ClassScore,
    ImageScore,
    read_evaluation,
    write_evaluation,
)
from gsto_jax.errors import UserError
from gsto_jax.losses import classification_loss
from gsto_jax.runs.tasks import task_from_config
from tests.gsto_jax.small_classes import class_values
from tests.gsto_jax.small_task import values


def test_loss_is_the_cross_entropy_with_smoothed_targets():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 1, 0], np.int32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for smoothing in (0.0, 0.1):
        targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
        expected = -(targets * np.log(probabilities)).sum(1).mean()
        loss = classification_loss(logits, labels, smoothing)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_accuracies():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [np.nan] * 3])
    ranks = rank_of_class(probabilities, np.array([0, 2, 0, 1]))
    assert ranks.tolist() == [0, 1, 1, 2]  # ties and NaN count against the network
    ranks, labels = np.array([0, 4, 5, 0]), np.array([0, 0, 2, 2])
    assert accuracies(ranks) == {"top1": 0.5, "top5": 0.75}
    counts, scores = class_accuracies(labels, ranks, 3)
    assert counts.tolist() == [2, 0, 2]
    np.testing.assert_array_equal(scores["top1"], [0.5, np.nan, 0.5])
    np.testing.assert_array_equal(scores["top5"], [1.0, np.nan, 0.5])
    assert all(np.isnan(value) for value in accuracies(ranks[:0]).values())


def test_result_files_are_read_as_written(tmp_path):
    record = {"step": 3, "top1": 0.5, "top5": None}
    image = {"label": 1, "predicted": 0, "rank": 1, "probability": 0.25, "confidence": 0.5}
    images = [ImageScore("cat/1", png_kinds=("sample",), **image)]
    classes = [ClassScore("cat", 2, 0.5, 1.0), ClassScore("dog, small", 0, np.nan, np.nan)]
    write_evaluation(tmp_path, record, images, classes)
    evaluation = read_evaluation(tmp_path)
    assert evaluation.record == record and evaluation.images == tuple(images)
    assert evaluation.classes[0] == classes[0]
    assert evaluation.classes[1].name == "dog, small" and np.isnan(evaluation.classes[1].top1)
    assert read_evaluation(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("section", "option", "value", "name"),
    [
        ("loss", "terms", [["dice", 1.0]], r"config\.loss\.terms"),
        ("loss", "class_weights", True, r"config\.loss\.class_weights"),
        ("eval", "scales", [0.5, 1.0], r"config\.eval\.scales"),
        ("eval", "pad_to", 64, r"config\.eval\.pad_to"),
        ("loss", "focal_gamma", 1.0, r"config\.loss\.focal_gamma"),
        ("eval", "window", "slide", r"config\.eval\.window"),
        ("optim", "kind", "lamb", r"config\.optim\.nesterov"),
    ],
)
def test_options_of_other_tasks_are_refused(section, option, value, name):
    plain = class_values()
    plain["optim"]["nesterov"] = True
    plain[section][option] = value
    with pytest.raises(UserError, match=name):
        task_from_config(plain)


def test_head_and_task_go_together():
    with pytest.raises(UserError, match=r"config\.model\.hrnet\.head must be 'cls'"):
        task_from_config(class_values() | {"model": values()["model"]})
    with pytest.raises(UserError, match=r"config\.model\.hrnet\.head must be other than 'cls'"):
        task_from_config(values(head="cls"))


def test_batches_are_those_of_the_step():
    task = task_from_config(class_values())
    shapes = task.abstract_batch(4, (32, 24), "train")
    assert shapes["label"] == ((4,), np.int32) and task.classes == ("a", "b", "c")
    image = jax.ShapeDtypeStruct((4, 32, 24, 3), np.float32)
    outputs = jax.eval_shape(task.model.apply, task.abstract_variables, image)
    assert outputs.logits.shape == (4, 3)
