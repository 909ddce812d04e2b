"""Evaluation and prediction with a network that compares the channels' means."""

from pathlib import Path

import jax
import numpy as np

from gsto_jax.classification.eval_set import ClassificationEvalSet
from gsto_jax.classification.results import read_evaluation
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.image_files import center_box, crop_pixels
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.runs.trained import TrainedModel
from tests.gsto_jax.small_classes import make_mean_task


def test_evaluation_ranks_the_true_classes_and_ignores_filled_rows(tmp_path):
    task, _ = make_mean_task(flip=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 12, 3), np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 1], np.int32)
    batches = [
        {
            "image": images[rows],
            "label": labels[rows],
            "index": np.minimum(rows, 4).astype(np.int32),
            "mask": rows < 5,
        }
        for rows in np.arange(6).reshape(3, 2)
    ]
    eval_set = ClassificationEvalSet(
        split="val", size=5, name=lambda n: f"x/{n}", batches=batches, crop="center 0.875"
    )
    mesh = make_mesh(jax.devices()[:1])
    result = eval_set.evaluate(task, {}, mesh, tmp_path, {"step": 3, "while_training": False})
    means = images[:5].astype(float).mean((1, 2))
    ranks = [
        int((mean >= mean[label]).sum()) - 1 for mean, label in zip(means, labels, strict=False)
    ]
    assert result.record["top1"] == np.mean(np.array(ranks) == 0)
    assert result.record["top5"] == 1 and result.record["protocol"] == "center 0.875 + flip"
    evaluation = read_evaluation(tmp_path)
    assert [x.rank for x in evaluation.images] == ranks
    assert [x.label for x in evaluation.images] == labels[:5].tolist()
    assert [x.images for x in evaluation.classes] == [2, 2, 1]
    assert [x.png_kinds for x in evaluation.images[:3]] == [("sample", "branches"), ("sample",), ()]
    assert (tmp_path / "x/1.png").exists()


def test_predictions_are_of_the_crop_at_the_center():
    task, plain = make_mean_task()
    trained = TrainedModel(task, {}, make_mesh(jax.devices()[:1]), Path("run/7"), plain)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    prediction = ClassPredictor(trained)(image, with_features=True)
    crop = crop_pixels(image, center_box((40, 50), (16, 12), 0.875), (16, 12))
    np.testing.assert_array_equal(prediction.crop, crop)
    scores = np.exp(crop.astype(float).mean((0, 1)) / 255)
    np.testing.assert_allclose(prediction.probabilities, scores / scores.sum(), rtol=1e-4)
    names = [name for name, _ in prediction.top()]
    assert names == [("a", "b", "c")[k] for k in np.argsort(-scores)]
    assert prediction.overlay().shape[1:] == (50, 3) and prediction.render("branches").ndim == 3
    assert [entry["class"] for entry in prediction.entries()] == names
