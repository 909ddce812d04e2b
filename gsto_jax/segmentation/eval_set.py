"""A labeled dataset to evaluate a segmentation network on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from gsto_jax.drawing.tiles import Color
from gsto_jax.evaluation.eval_set import DatasetScores, EvalSet, nan_to_none
from gsto_jax.evaluation.folder import ResultsFolder
from gsto_jax.evaluation.loop import Batch, OnBatch
from gsto_jax.segmentation import results, tables
from gsto_jax.segmentation.evaluate import PaddedBatches, evaluate
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.metrics import Scores, compute_scores, confusion_matrix_numpy
from gsto_jax.segmentation.png_writer import SegmentationPngWriter
from gsto_jax.segmentation.protocol import EvalProtocol
from gsto_jax.segmentation.results import ImageScore
from gsto_jax.segmentation.task import SegmentationTask

_MEANS = ("mean_iou", "pixel_accuracy", "mean_accuracy", "mean_boundary_iou")


@dataclass(frozen=True, kw_only=True)
class SegmentationEvalSet(EvalSet):
    """Labeled images. See `EvalSet` for the other attributes.

    Attributes:
      classes: names.
      palette: RGB color of each class.
      protocol: test protocol.
      instances: called once per evaluation; returns new instance counts, or None.
    """

    files: ClassVar[ResultsFolder[ImageScore]] = results.FOLDER

    batches: PaddedBatches
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    protocol: EvalProtocol
    instances: Callable[[], InstanceCounts | None] = lambda: None

    @property
    def metric(self) -> str:
        """See `EvalSet.metric`."""
        return "mean_iou"

    def writer(self, task: SegmentationTask, folder: Path) -> SegmentationPngWriter:
        """See `EvalSet.writer`."""
        return SegmentationPngWriter(
            folder,
            classes=self.classes,
            palette=self.palette,
            ignore_label=task.ignore_label,
            limit=task.config.eval.sample_images,
            feature_images=task.config.eval.feature_images,
            name=self.name,
        )

    def predict(
        self,
        task: SegmentationTask,
        variables: Any,
        mesh: Mesh,
        on_batch: OnBatch,
        stop: Callable[[], bool],
    ) -> Scores | None:
        """See `EvalSet.predict`."""
        return evaluate(
            task,
            variables,
            self.batches,
            mesh,
            self.protocol,
            on_batch=on_batch,
            stop=stop,
            instances=self.instances(),
            feature_images=task.config.eval.feature_images,
        )

    def score(
        self, task: SegmentationTask, sample: Batch, prediction: np.ndarray, **about: Any
    ) -> ImageScore:
        """See `EvalSet.score`."""
        height, width = sample["size"].tolist()
        label, prediction = (x[:height, :width] for x in (sample["label"], prediction))
        confusion = confusion_matrix_numpy(label, prediction, task.num_classes, task.ignore_label)
        result = compute_scores(confusion)
        return ImageScore(
            height=height,
            width=width,
            labeled_pixels=int(confusion.sum()),
            pixel_accuracy=result.pixel_accuracy,
            mean_iou=result.mean_iou,
            **about,
        )

    def describe(self, task: SegmentationTask) -> str:
        """See `EvalSet.describe`."""
        return f"{self.size} images, {self.protocol}"

    def summarize(self, task: SegmentationTask, predictions: Scores, title: str) -> DatasetScores:
        """See `EvalSet.summarize`."""
        means = {name: getattr(predictions, name) for name in _MEANS}
        ious = dict(zip(self.classes, predictions.iou.tolist(), strict=True))
        scalars = {k: v for k, v in means.items() if k != "mean_accuracy"}
        return DatasetScores(
            {
                "images": self.size,
                "protocol": str(self.protocol),
                **nan_to_none(means),
                "class_iou": nan_to_none(ious),
            },
            (
                tables.score_table(predictions, self.classes, title),
                f"mean IoU {tables.percent(predictions.mean_iou)}",
            ),
            scalars | {f"iou/{name}": value for name, value in ious.items()},
            partial(results.write_evaluation, scores=predictions, classes=self.classes),
        )
