"""Predicts the inputs of `--mode=predict` with any predictor. Imports no JAX."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.image_files import DecodeOptions, ImageHeader
from gsto_jax.predict.class_prediction import ClassPrediction
from gsto_jax.predict.files import (
    read_poses,
    read_results,
    write_class_names,
    write_classes,
    write_joints,
    write_poses,
    write_results,
)
from gsto_jax.predict.georeference import INSTALL, has_rasterio, is_geotiff
from gsto_jax.predict.inputs import Input
from gsto_jax.predict.outputs import CLASS_OUTPUTS, MEASURES, POSE_OUTPUTS, SEGMENTATION_OUTPUTS
from gsto_jax.predict.pose_prediction import PosePrediction
from gsto_jax.predict.prediction import Prediction
from gsto_jax.predict.programs import ProgramError
from gsto_jax.predict.row_readers import read_any_header
from modes.person_boxes import read_boxes
from modes.prediction_pipeline import InputPredictor
from modes.terminal_output import log

_FRAME_SEPARATOR = ".mp4/"  # between the name of a video and a frame number
_CLASS_RESULTS = "predictions.json"
_MAX_LISTED_NAMES = 3
PREDICTOR_FLAGS = ("unsure_below", "tile", "tile_overlap")
"""Flags that are attributes of `Predictor`."""
LABEL_FLAGS = ("long_side", "legend", *PREDICTOR_FLAGS)
"""Flags that poses do not have."""
DECODE_OPTIONS = tuple(field.name for field in fields(DecodeOptions) if field.name != "channels")
"""Options of `config.data` that decode image files."""


class LabelInputs(InputPredictor):
    """Predicts class labels.

    Args:
      predictor: a `Predictor` or an `ExportedPredictor`.
      inputs: all inputs.
      outputs: names of the outputs to write.
    """

    outputs, default_outputs = SEGMENTATION_OUTPUTS, ("overlay", "color", "ids")

    def __init__(self, predictor: Any, inputs: Sequence[Input], outputs: Sequence[str]) -> None:
        self.predictor, self.checkpoint = predictor, predictor.checkpoint
        self.decode_options = predictor.decode_options
        self.measures = {*MEASURES} & {*outputs}
        if "uncertainty" in outputs:
            self.measures |= {"entropy"}
        self.headers = dict(read_headers(inputs))
        self.georeferenced = _georeferenced(self.headers)
        self.pixels = Counter[Input]()
        self.unsure = Counter[Input]()

    @property
    def unsure_label(self) -> int | None:
        """Label of unsure pixels; None without --unsure_below."""
        return self.predictor.ignore_label if self.predictor.unsure_below else None

    def write_legend(self, output: Path) -> None:
        """See `InputPredictor.write_legend`."""
        classes, palette = self.predictor.classes, self.predictor.palette
        write_classes(output, classes, palette, self.unsure_label)

    def __call__(self, entry: Input, image: np.ndarray) -> Prediction:
        """See `InputPredictor`."""
        return self.counted(entry, self.predictor(image, measures=self.measures))

    def counted(self, entry: Input, prediction: Prediction) -> Prediction:
        """Counts the unsure pixels of a prediction, and returns it."""
        if self.unsure_label is not None:
            self.pixels[entry] += prediction.labels.size
            self.unsure[entry] += prediction.unsure_count
        return prediction

    def write_results(self, output: Path, failed: Sequence[Input]) -> None:
        """Writes nothing: each image has its own files."""

    def note(self) -> str | None:
        """Returns the share of unsure pixels."""
        if not self.pixels:
            return None
        total = self.unsure.total() / self.pixels.total()
        note = f"unsure      {total:.1%} of pixels are below {self.predictor.unsure_below:g}"
        if len(self.pixels) == 1:
            return note
        most = max(self.pixels, key=lambda entry: self.unsure[entry] / self.pixels[entry])
        return f"{note}; most in {most.path}, {self.unsure[most] / self.pixels[most]:.1%}"


class CollectingInputs(InputPredictor):
    """Predicts images, and collects what is predicted by image name in one file.

    Attributes:
      entries: the predictions of this run.
      previous: those of earlier runs with the same output folder.
    """

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.checkpoint = predictor, predictor.checkpoint
        self.decode_options = predictor.decode_options
        self.entries: dict[str, list[dict[str, Any]]] = {}
        self.previous: dict[str, Any] = {}
        self._frame_counts = Counter[str]()

    def next_name(self, entry: Input) -> str:
        """Returns the name of an image, or of the next frame of a video."""
        number = self._frame_counts[entry.name]
        self._frame_counts[entry.name] += 1
        return f"{entry.name}{_FRAME_SEPARATOR}{number:06d}" if entry.is_video else entry.name

    def all_entries(self, failed: Sequence[Input]) -> dict[str, Any]:
        """Returns the predictions of all runs without failed inputs; {} if this run has none."""
        for entry in failed:
            for name in list(self.entries):
                if name == entry.name or name.startswith(f"{entry.name}{_FRAME_SEPARATOR}"):
                    del self.entries[name]
        return self.previous | self.entries if self.entries else {}


class PoseInputs(CollectingInputs):
    """Predicts the joints of persons in boxes, and collects them by image name.

    Args:
      predict: maps an image `h w c` and its boxes to a prediction.
      predictor: a `PosePredictor` or an `ExportedPosePredictor`.
      inputs: all inputs.
      boxes: value of --boxes.
    """

    outputs, default_outputs = POSE_OUTPUTS, ("overlay",)

    def __init__(
        self,
        predict: Callable[[np.ndarray, Any], PosePrediction],
        predictor: Any,
        inputs: Sequence[Input],
        boxes: str | None,
    ) -> None:
        super().__init__(predictor)
        self.predict = predict
        self.boxes_of = read_boxes(boxes, inputs, log)
        self.without_joints: list[str] = []

    def write_legend(self, output: Path) -> None:
        """See `InputPredictor.write_legend`."""
        write_joints(output, self.predictor.joints, self.predictor.skeleton)
        self.previous = read_poses(output)

    def __call__(self, entry: Input, image: np.ndarray) -> PosePrediction:
        """See `InputPredictor`."""
        boxes = self.boxes_of(entry)
        try:
            prediction = self.predict(image, boxes)
        except ProgramError:
            raise
        except UserError as error:
            raise UserError(f"{entry.path}: {error}") from None
        name = self.next_name(entry)
        self.entries[name] = prediction.persons()
        for n in prediction.without_joints():
            box = [round(x, 1) for x in prediction.boxes[n].tolist()]
            self.without_joints.append(f"{name} {box}")
        return prediction

    def write_results(self, output: Path, failed: Sequence[Input]) -> None:
        """Writes `poses.json`, without the inputs that failed."""
        if entries := self.all_entries(failed):
            write_poses(output, entries)

    def note(self) -> str | None:
        """Returns a note about persons without joints."""
        return without_joints_note(self.without_joints, self.predictor.visibility_threshold)


class ClassInputs(CollectingInputs):
    """Predicts the classes of images, and collects them by image name.

    Args:
      predict: maps an image `h w c` to a prediction.
      predictor: a `ClassPredictor`.
    """

    outputs, default_outputs = CLASS_OUTPUTS, ("overlay",)

    def __init__(self, predict: Callable[[np.ndarray], ClassPrediction], predictor: Any) -> None:
        super().__init__(predictor)
        self.predict = predict

    def write_legend(self, output: Path) -> None:
        """See `InputPredictor.write_legend`."""
        write_class_names(output, self.predictor.classes)
        self.previous = read_results(output / _CLASS_RESULTS)

    def __call__(self, entry: Input, image: np.ndarray) -> ClassPrediction:
        """See `InputPredictor`."""
        prediction = self.predict(image)
        self.entries[self.next_name(entry)] = prediction.entries()
        return prediction

    def write_results(self, output: Path, failed: Sequence[Input]) -> None:
        """Writes `predictions.json`, without the inputs that failed."""
        if entries := self.all_entries(failed):
            write_results(output / _CLASS_RESULTS, entries)

    def note(self) -> str | None:
        """Returns None."""
        return None


def without_joints_note(persons: Sequence[str], threshold: float) -> str | None:
    """Returns a note about persons whose overlays have a box instead of a skeleton."""
    if not persons:
        return None
    return (
        f"note: no joint of {len(persons)} persons scores {threshold:g} "
        f"(pose.visibility_threshold) or more; overlays show their boxes: {first_names(persons)}"
    )


def first_names(names: Sequence[str]) -> str:
    """Joins the first names."""
    return ", ".join(names[:_MAX_LISTED_NAMES]) + (
        ", ..." if len(names) > _MAX_LISTED_NAMES else ""
    )


def read_headers(inputs: Sequence[Input]) -> Iterator[tuple[Input, ImageHeader]]:
    """Yields the headers of all readable images."""
    for entry in inputs:
        try:
            if not entry.is_video:
                yield entry, read_any_header(entry.path)
        except UserError:
            continue


def _georeferenced(headers: Mapping[Input, ImageHeader]) -> Collection[Input]:
    """Returns the images with a georeference; without rasterio none, and a warning."""
    entries = [entry for entry, header in headers.items() if is_geotiff(header)]
    if entries and not has_rasterio():
        log(
            f"warning: {len(entries)} images have a georeference, which predictions keep after "
            f"{INSTALL}: {first_names([entry.path.name for entry in entries])}"
        )
        return set()
    return {*entries}


def config_overrides(args: Any) -> dict[str, Any]:
    """Returns the values of the flags --config.SECTION.NAME=VALUE."""
    return {name: value for name, value in vars(args).items() if name.startswith("config.")}


def refuse_flags(args: Any, names: Sequence[str], reason: str) -> None:
    """Raises UserError for the first of some flags that is given."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value is not False and value != "":  # 0 is given
            raise UserError(f"--{name} {reason}")
