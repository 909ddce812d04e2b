"""Predicts images and videos with the network of a checkpoint."""

import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gsto_jax import progress
from gsto_jax.config import RUNTIME, option_role
from gsto_jax.devices.mesh import use_compilation_cache
from gsto_jax.errors import UserError
from gsto_jax.files import is_disk_full
from gsto_jax.image_files import DecodeOptions, ImageHeader
from gsto_jax.ops.padding import downscaled_size
from gsto_jax.predict.files import (
    PredictionWriter,
    read_poses,
    write_classes,
    write_joints,
    write_poses,
)
from gsto_jax.predict.inputs import Input, find_inputs
from gsto_jax.predict.media import count_frames, read_image, read_image_header, video_frames
from gsto_jax.predict.outputs import FEATURE_OUTPUTS
from gsto_jax.predict.pose import POSE_OUTPUTS, PosePrediction, PosePredictor
from gsto_jax.predict.segmentation import SEGMENTATION_OUTPUTS, Prediction, Predictor
from gsto_jax.predict.video_writer import CODECS
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.segmentation.compiled_shapes import compilation_note
from modes.person_boxes import read_boxes
from modes.terminal_output import Log, log

_FRAME_SEPARATOR = ".mp4/"  # between the name of a video and a frame number
_DECODE_OPTIONS = tuple(field.name for field in fields(DecodeOptions) if field.name != "channels")
_MAX_LISTED_NAMES = 3
_PREFETCH = 3  # number of images being read, and being written, at a time


def run(args: Any) -> None:
    """Runs the mode. Exits with status 1 if a file could not be predicted."""
    if not args.checkpoint:
        raise UserError("--mode=predict needs --checkpoint: a run, its best/, or a checkpoint")
    output = Path(args.output or "predictions").expanduser()
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
    predictor = make_predictor(trained, args, inputs, bool(FEATURE_OUTPUTS & set(outputs)))
    writer = PredictionWriter(output, outputs, make_predictor.outputs, args.legend)
    predictor.write_legend(output)
    for entry in inputs:
        if entry.name.rpartition("/")[2] != entry.path.stem:
            log(f"{entry.path} is saved as {entry.name}")
    use_compilation_cache(trained.task.config.run.compilation_cache)
    decode_options = DecodeOptions.of(trained.config["data"])
    if decode_options.orientation == "stored":
        _warn_about_orientation(inputs, log)
    pipeline = _Pipeline(predictor, decode_options, writer)
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
    log(f"predictions {output.absolute()}")
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


class _LabelPredictor:
    """Predicts class labels."""

    outputs, default_outputs = SEGMENTATION_OUTPUTS, ("overlay", "color", "ids")

    def __init__(
        self, trained: TrainedModel, args: Any, inputs: list[Input], with_features: bool
    ) -> None:
        if args.boxes:
            raise UserError("--boxes is for pose checkpoints; this is a segmentation checkpoint")
        pad_to = vars(args).get("config.eval.pad_to")
        self.predictor = Predictor.from_trained(trained, args.long_side, pad_to)
        self.with_features = with_features
        sizes = {
            header.oriented_size(self.predictor.decode_options) for _, header in _headers(inputs)
        }
        sizes = {downscaled_size(size, self.predictor.long_side) for size in sizes}
        if note := compilation_note(self.predictor.protocol, sizes):
            log(note)

    def write_legend(self, output: Path) -> None:
        write_classes(output, self.predictor.classes, self.predictor.palette)

    def __call__(self, entry: Input, image: np.ndarray) -> Prediction:
        return self.predictor(image, self.with_features)

    def write_results(self, output: Path, failed: Sequence[Input]) -> None:
        """Writes nothing: each image has its own files."""

    def note(self) -> str | None:
        return None


class _PosePredictor:
    """Predicts the joints of persons in boxes, and collects them by image name."""

    outputs, default_outputs = POSE_OUTPUTS, ("overlay",)

    def __init__(
        self, trained: TrainedModel, args: Any, inputs: list[Input], with_features: bool
    ) -> None:
        for name in ("long_side", "legend"):
            if getattr(args, name):
                raise UserError(
                    f"--{name} is for segmentation checkpoints; this is a pose checkpoint"
                )
        self.predictor, self.with_features = PosePredictor(trained), with_features
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


class _Pipeline:
    """Predicts files while the next ones are read and the previous ones are written.

    Attributes:
      failed: inputs without a prediction.
      errors: error messages.
    """

    def __init__(
        self,
        predictor: _LabelPredictor | _PosePredictor,
        decode_options: DecodeOptions,
        writer: PredictionWriter,
    ) -> None:
        self.predictor, self.decode_options, self.writer = predictor, decode_options, writer
        self.failed: list[Input] = []
        self.errors: list[str] = []

    def run(self, inputs: Sequence[Input]) -> None:
        with progress.track("predicting", len(inputs)) as advance:
            self._predict_images([entry for entry in inputs if not entry.is_video], advance)
            for entry in inputs:
                if entry.is_video:
                    with self._errors_recorded(entry):
                        self._predict_video(entry)
                    advance()

    @contextmanager
    def _errors_recorded(self, entry: Input) -> Iterator[None]:
        """Records errors of an input, so that the other inputs are still processed."""
        try:
            yield
        except UserError as error:
            message = str(error)
        except OSError as error:
            if is_disk_full(error):
                raise
            message = f"cannot write the prediction of {entry.path}: {error.strerror or error}"
        else:
            return
        self.failed.append(entry)
        self.errors.append(message)

    def _predict_images(self, inputs: Sequence[Input], advance: progress.Advance) -> None:
        with ThreadPoolExecutor(_PREFETCH) as readers, ThreadPoolExecutor(_PREFETCH) as writers:
            reads: deque[Future[np.ndarray]] = deque()
            writes: deque[tuple[Input, Future[None]]] = deque()
            unread = iter(inputs)
            for entry in inputs:
                for upcoming in islice(unread, _PREFETCH - len(reads)):
                    reads.append(readers.submit(read_image, upcoming.path, self.decode_options))
                with self._errors_recorded(entry):
                    prediction = self._predict(entry, reads.popleft().result())
                    writes.append(
                        (entry, writers.submit(self.writer.write, entry.name, prediction))
                    )
                while len(writes) > _PREFETCH:
                    self._wait_for_write(*writes.popleft())
                advance()
            while writes:
                self._wait_for_write(*writes.popleft())

    def _wait_for_write(self, entry: Input, write: Future[None]) -> None:
        with self._errors_recorded(entry):
            write.result()

    def _predict_video(self, entry: Input) -> None:
        if self.decode_options.channels != 3:
            raise UserError(
                f"cannot predict {entry.path}: videos are RGB, and the checkpoint takes images of "
                f"config.data.channels={self.decode_options.channels}"
            )
        frames, rate = count_frames(entry.path)
        count = 0

        def predictions() -> Iterator[Prediction | PosePrediction]:
            nonlocal count
            for frame in video_frames(entry.path):
                yield self._predict(entry, frame)
                count += 1
                advance()
            if not count:
                raise UserError(f"cannot read {entry.path}: it has no frames")

        with progress.track(f"predicting {entry.path.name}", frames or None) as advance:
            self.writer.write_video(entry.name, rate, predictions())
        if count < frames - rate:  # some files store their length in whole seconds only
            self.errors.append(
                f"{entry.path} ends after {count} of {frames} frames; it may be truncated"
            )

    def _predict(self, entry: Input, image: np.ndarray) -> Prediction | PosePrediction:
        try:
            return self.predictor(entry, image)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            height, width = image.shape[:2]
            raise UserError(
                f"{entry.path}, {width}x{height}, does not fit into memory: use a smaller image, "
                "or for segmentation a --long_side"
            ) from None


def _headers(inputs: list[Input]) -> Iterator[tuple[Input, ImageHeader]]:
    """Yields the headers of all readable images."""
    for entry in inputs:
        try:
            if not entry.is_video:
                yield entry, read_image_header(entry.path)
        except UserError:
            continue


def _warn_about_orientation(inputs: list[Input], log: Log) -> None:
    """Warns about images whose EXIF orientation is ignored, as it was in training."""
    rotated = [entry for entry, header in _headers(inputs) if header.orientation != 1]
    if rotated:
        log(
            f"warning: {len(rotated)} images have an EXIF orientation, such as {rotated[0].path}, "
            "and are read as stored, as in training: --config.data.orientation=upright applies it"
        )
