"""Predicts images and videos with the network of a checkpoint."""

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.config import RUNTIME, option_role
from gsto_jax.devices.compilation_cache import use_compilation_cache
from gsto_jax.errors import UserError
from gsto_jax.image_files import MAX_PIXELS, DecodeOptions, ImageHeader
from gsto_jax.ops.padding import downscaled_size
from gsto_jax.predict.files import (
    PredictionWriter,
    read_poses,
    write_classes,
    write_joints,
    write_poses,
)
from gsto_jax.predict.georeference import INSTALL, has_rasterio, is_geotiff
from gsto_jax.predict.inputs import Input, find_inputs
from gsto_jax.predict.outputs import FEATURE_OUTPUTS, MEASURES
from gsto_jax.predict.pose import POSE_OUTPUTS, PosePrediction, PosePredictor
from gsto_jax.predict.prediction import Prediction
from gsto_jax.predict.row_readers import RowReader, read_any_header
from gsto_jax.predict.segmentation import SEGMENTATION_OUTPUTS, Predictor
from gsto_jax.predict.video_writer import CODECS
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.segmentation.compiled_shapes import compilation_note
from gsto_jax.storage import to_path
from modes.person_boxes import read_boxes
from modes.prediction_pipeline import InputPredictor, PredictionPipeline
from modes.terminal_output import Log, log

_FRAME_SEPARATOR = ".mp4/"  # between the name of a video and a frame number
_DECODE_OPTIONS = tuple(field.name for field in fields(DecodeOptions) if field.name != "channels")
_MAX_LISTED_NAMES = 3
_PREDICTOR_FLAGS = ("unsure_below", "tile", "tile_overlap")
"""Flags that are attributes of `Predictor`."""


def run(args: Any) -> None:
    """Runs the mode. Exits with status 1 if a file could not be predicted."""
    if not args.checkpoint:
        raise UserError("--mode=predict needs --checkpoint: a run, its best/, or a checkpoint")
    output = to_path(args.output or "predictions", "--output")
    skipped: list[Path] = []
    inputs = find_inputs(args.inputs, output, skipped.append)
    if skipped:
        names = _first_names([path.name for path in skipped])
        log(f"warning: skipping {len(skipped)} files that are neither images nor videos: {names}")
    trained = _override_config(load_trained(args.checkpoint), args)
    make_predictor = _PosePredictor if trained.task.config.task == "pose" else _LabelPredictor
    outputs = args.save or make_predictor.default_outputs
    if "gates" in outputs and not trained.task.config.model.has_gates:
        raise UserError(f"--save=gates: the network of {trained.path} has no gates")
    predictor = make_predictor(trained, args, inputs, outputs)
    writer = PredictionWriter(output, outputs, make_predictor.outputs, args.legend)
    predictor.write_legend(output)
    for entry in inputs:
        if entry.name.rpartition("/")[2] != entry.path.stem:
            log(f"{entry.path} is saved as {entry.name}")
    use_compilation_cache(trained.task.config.run.compilation_cache)
    decode_options = DecodeOptions.of(trained.config["data"])
    if decode_options.orientation == "stored":
        _warn_about_orientation(inputs, log)
    pipeline = PredictionPipeline(predictor, decode_options, writer)
    try:
        pipeline.run(inputs)
    finally:  # also when interrupted
        predictor.write_results(output, pipeline.failed)
    for message in pipeline.errors:
        print(f"error: {message}", file=sys.stderr)
    if note := predictor.note():
        log(note)
    completed = len(inputs) - len(pipeline.failed)
    log(f"{completed} of {len(inputs)} predicted: {', '.join(writer.outputs)}")
    for codec in sorted(writer.codecs - {"avc1"}):
        log(f"videos      {CODECS[codec]}")
    log(f"predictions {output}")
    log(f"checkpoint  {trained.path}")
    if pipeline.errors:
        sys.exit(1)


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_LISTED_NAMES]) + (
        ", ..." if len(names) > _MAX_LISTED_NAMES else ""
    )


def _override_config(trained: TrainedModel, args: Any) -> TrainedModel:
    """Applies --config.NAME=VALUE to the config of a checkpoint.

    Raises:
      UserError: an option that determines the network or its training, or an invalid value.
    """
    overrides = {name: value for name, value in vars(args).items() if name.startswith("config.")}
    config = {**trained.config}
    for option, value in overrides.items():
        _, section, *name = option.split(".")
        is_runtime = section in ("eval", "pose") and option_role(f"{section}.{name[0]}") == RUNTIME
        if not is_runtime and (section != "data" or name[0] not in _DECODE_OPTIONS):
            raise UserError(
                f"--{option} is fixed by the checkpoint: only options of config.eval, those of "
                "config.pose that decode heatmaps, and those that decode images "
                f"(config.data.{', '.join(_DECODE_OPTIONS)}) can be overridden"
            )
        config[section] = {**config[section], name[0]: value}
    try:
        DecodeOptions.of(config["data"])
    except ValueError as error:
        raise UserError(f"config.data: {error}") from None
    return replace(trained, config=config, task=task_from_config(config)) if overrides else trained


class _LabelPredictor(InputPredictor):
    """Predicts class labels."""

    outputs, default_outputs = SEGMENTATION_OUTPUTS, ("overlay", "color", "ids")

    def __init__(
        self, trained: TrainedModel, args: Any, inputs: list[Input], outputs: Sequence[str]
    ) -> None:
        if args.boxes:
            raise UserError("--boxes is for pose checkpoints; this is a segmentation checkpoint")
        options = {name: getattr(args, name) for name in _PREDICTOR_FLAGS}
        options = {name: value for name, value in options.items() if value is not None}
        if args.tile and args.long_side:
            raise UserError("--long_side and --tile exclude each other: tiles are not downscaled")
        pad_to = vars(args).get("config.eval.pad_to")
        self.predictor = Predictor.from_trained(trained, args.long_side, pad_to, **options)
        self.with_features = bool(FEATURE_OUTPUTS & set(outputs))
        if self.with_features and args.tile:
            raise UserError("--save=branches,gates and --tile exclude each other")
        self.measures = {*MEASURES} & {*outputs}
        if "uncertainty" in outputs:
            self.measures |= {"entropy"}
        headers = dict(_headers(inputs))
        self.tiled = {
            entry
            for entry, header in headers.items()
            if args.tile or math.prod(header.size) > MAX_PIXELS
        }
        self.georeferenced = _georeferenced(headers)
        self.pixels = Counter[Input]()
        self.unsure = Counter[Input]()
        self._log_shapes(headers, is_automatic=not args.tile)

    def _log_shapes(self, headers: Mapping[Input, ImageHeader], is_automatic: bool) -> None:
        options, predictor = self.predictor.decode_options, self.predictor
        sizes = {
            downscaled_size(header.oriented_size(options), predictor.long_side)
            for entry, header in headers.items()
            if entry not in self.tiled
        }
        if note := compilation_note(predictor.protocol, sizes):
            log(note)
        if self.tiled and is_automatic:
            log(
                f"note: {len(self.tiled)} images of more than {MAX_PIXELS // 10**6} million pixels "
                f"are predicted at full size, in tiles of {predictor.tile_side} pixels (--tile): "
                f"{_first_names([entry.path.name for entry in headers if entry in self.tiled])}"
            )

    @property
    def unsure_label(self) -> int | None:
        """Label of unsure pixels; None without --unsure_below."""
        return self.predictor.task.ignore_label if self.predictor.unsure_below else None

    def write_legend(self, output: Path) -> None:
        classes, palette = self.predictor.classes, self.predictor.palette
        write_classes(output, classes, palette, self.unsure_label)

    def __call__(self, entry: Input, image: np.ndarray) -> Prediction:
        if self.predictor.tile:  # a frame of a video
            return self._counted(entry, self.predictor(image, measures=self.measures))
        prediction = self.predictor(image, self.with_features, self.measures)
        return self._counted(entry, prediction)

    def predict_rows(self, entry: Input, image: RowReader) -> Iterator[Prediction]:
        if self.with_features:
            raise UserError(f"{entry.path} is predicted in tiles, without --save=branches,gates")
        for prediction in self.predictor.predict_rows(image, self.measures):
            yield self._counted(entry, prediction)

    def _counted(self, entry: Input, prediction: Prediction) -> Prediction:
        if self.unsure_label is not None:
            self.pixels[entry] += prediction.labels.size
            self.unsure[entry] += prediction.unsure_count
        return prediction

    def write_results(self, output: Path, failed: Sequence[Input]) -> None:
        """Writes nothing: each image has its own files."""

    def note(self) -> str | None:
        if not self.pixels:
            return None
        total = self.unsure.total() / self.pixels.total()
        note = f"unsure      {total:.1%} of pixels are below {self.predictor.unsure_below:g}"
        if len(self.pixels) == 1:
            return note
        most = max(self.pixels, key=lambda entry: self.unsure[entry] / self.pixels[entry])
        return f"{note}; most in {most.path}, {self.unsure[most] / self.pixels[most]:.1%}"


class _PosePredictor(InputPredictor):
    """Predicts the joints of persons in boxes, and collects them by image name."""

    outputs, default_outputs = POSE_OUTPUTS, ("overlay",)

    def __init__(
        self, trained: TrainedModel, args: Any, inputs: list[Input], outputs: Sequence[str]
    ) -> None:
        for name in ("long_side", "legend", *_PREDICTOR_FLAGS):
            if getattr(args, name):
                raise UserError(
                    f"--{name} is for segmentation checkpoints; this is a pose checkpoint"
                )
        self.predictor = PosePredictor(trained)
        self.with_features = bool(FEATURE_OUTPUTS & set(outputs))
        self.boxes_of = read_boxes(args.boxes, inputs, log)
        self.frame_counts = Counter[str]()
        self.persons: dict[str, list[dict[str, Any]]] = {}
        self.previous: dict[str, Any] = {}  # from earlier runs with the same output folder
        self.without_joints: list[str] = []

    def write_legend(self, output: Path) -> None:
        write_joints(output, self.predictor.task.joints, self.predictor.task.skeleton)
        self.previous = read_poses(output)

    def __call__(self, entry: Input, image: np.ndarray) -> PosePrediction:
        boxes = self.boxes_of(entry)
        try:
            prediction = self.predictor(image, boxes, self.with_features)
        except UserError as error:
            raise UserError(f"{entry.path}: {error}") from None
        name = entry.name
        if entry.is_video:
            name += f"{_FRAME_SEPARATOR}{self.frame_counts[entry.name]:06d}"
        self.frame_counts[entry.name] += 1
        self.persons[name] = prediction.persons()
        for n in prediction.without_joints():
            box = [round(x, 1) for x in prediction.boxes[n].tolist()]
            self.without_joints.append(f"{name} {box}")
        return prediction

    def write_results(self, output: Path, failed: Sequence[Input]) -> None:
        """Writes `poses.json`, without the inputs that failed."""
        for entry in failed:
            for name in list(self.persons):
                if name == entry.name or name.startswith(f"{entry.name}{_FRAME_SEPARATOR}"):
                    del self.persons[name]
        if self.persons:
            write_poses(output, self.previous | self.persons)

    def note(self) -> str | None:
        return _without_joints_note(
            self.without_joints, self.predictor.task.config.pose.visibility_threshold
        )


def _without_joints_note(persons: Sequence[str], threshold: float) -> str | None:
    """Returns a note about persons whose overlays have a box instead of a skeleton."""
    if not persons:
        return None
    return (
        f"note: no joint of {len(persons)} persons scores {threshold:g} "
        f"(pose.visibility_threshold) or more; overlays show their boxes: {_first_names(persons)}"
    )


def _headers(inputs: list[Input]) -> Iterator[tuple[Input, ImageHeader]]:
    """Yields the headers of all readable images."""
    for entry in inputs:
        try:
            if not entry.is_video:
                yield entry, read_any_header(entry.path)
        except UserError:
            continue


def _georeferenced(headers: Mapping[Input, ImageHeader]) -> set[Input]:
    """Returns the images with a georeference; without rasterio none, and a warning."""
    entries = [entry for entry, header in headers.items() if is_geotiff(header)]
    if entries and not has_rasterio():
        log(
            f"warning: {len(entries)} images have a georeference, which predictions keep after "
            f"{INSTALL}: {_first_names([entry.path.name for entry in entries])}"
        )
        return set()
    return {*entries}


def _warn_about_orientation(inputs: list[Input], log: Log) -> None:
    """Warns about images whose EXIF orientation is ignored, as it was in training."""
    rotated = [entry for entry, header in _headers(inputs) if header.orientation != 1]
    if rotated:
        log(
            f"warning: {len(rotated)} images have an EXIF orientation, such as {rotated[0].path}, "
            "and are read as stored, as in training: --config.data.orientation=upright applies it"
        )
