"""A dataset of images with a class each to evaluate a network on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from gsto_jax.classification.evaluate import ClassificationPredictions, classify
from gsto_jax.classification.metrics import accuracies, class_accuracies, rank_of_class
from gsto_jax.classification.png_writer import ClassificationPngWriter
from gsto_jax.classification.results import FOLDER, ClassScore, ImageScore, write_evaluation
from gsto_jax.classification.tables import score_table
from gsto_jax.classification.task import ClassificationTask
from gsto_jax.evaluation.eval_set import DatasetScores, EvalSet, nan_to_none
from gsto_jax.evaluation.folder import ResultsFolder
from gsto_jax.evaluation.loop import Batch, OnBatch
from gsto_jax.evaluation.percent import percent


@dataclass(frozen=True, kw_only=True)
class ClassificationEvalSet(EvalSet):
    """Crops of images with a class each. See `EvalSet` for the other attributes.

    Attributes:
      crop: description of the crop.
    """

    files: ClassVar[ResultsFolder[ImageScore]] = FOLDER

    batches: Iterable[Batch]
    crop: str

    @property
    def metric(self) -> str:
        """See `EvalSet.metric`."""
        return "top1"

    def writer(self, task: ClassificationTask, folder: Path) -> ClassificationPngWriter:
        """See `EvalSet.writer`."""
        options = task.config.eval
        return ClassificationPngWriter(
            folder, options.sample_images, options.feature_images, self.name
        )

    def predict(
        self,
        task: ClassificationTask,
        variables: Any,
        mesh: Mesh,
        on_batch: OnBatch,
        stop: Callable[[], bool],
    ) -> ClassificationPredictions | None:
        """See `EvalSet.predict`."""
        return classify(
            task, variables, self.batches, self.size, mesh, on_batch=on_batch, stop=stop
        )

    def score(
        self, task: ClassificationTask, sample: Batch, prediction: np.ndarray, **about: Any
    ) -> ImageScore:
        """See `EvalSet.score`."""
        label, predicted = int(sample["label"]), int(prediction.argmax())
        return ImageScore(
            label=label,
            predicted=predicted,
            rank=int(rank_of_class(prediction[None], np.array([label]))[0]),
            probability=float(prediction[label]),
            confidence=float(prediction[predicted]),
            **about,
        )

    def describe(self, task: ClassificationTask) -> str:
        """See `EvalSet.describe`."""
        return f"{self.size} images, {self._protocol(task)}"

    def summarize(
        self, task: ClassificationTask, predictions: ClassificationPredictions, title: str
    ) -> DatasetScores:
        """See `EvalSet.summarize`."""
        scores = accuracies(predictions.ranks)
        counts, by_class = class_accuracies(predictions.labels, predictions.ranks, task.num_classes)
        classes = [
            ClassScore(name, int(counts[k]), *(float(values[k]) for values in by_class.values()))
            for k, name in enumerate(task.classes)
        ]
        record = {"images": self.size, "protocol": self._protocol(task), **nan_to_none(scores)}
        headline = f"top-1 {percent(scores['top1'])}, top-5 {percent(scores['top5'])}"
        return DatasetScores(
            record,
            (score_table(classes, scores, title), headline),
            scores,
            partial(write_evaluation, classes=classes),
        )

    def _protocol(self, task: ClassificationTask) -> str:
        return f"{self.crop} + flip" if task.config.eval.flip else self.crop
