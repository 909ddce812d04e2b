"""Predicts anyone's images and videos by a checkpoint alone."""

import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
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
    FEATURE_OUTPUTS,
    Input,
    PredictionWriter,
    find_inputs,
    read_poses,
    write_classes,
    write_joints,
    write_poses,
)
from gsto_jax.predict.media import count_frames, read_image, read_image_header, video_frames
from gsto_jax.predict.pose import POSE_OUTPUTS, PosePrediction, PosePredictor
from gsto_jax.predict.segmentation import SEGMENTATION_OUTPUTS, Prediction, Predictor
from gsto_jax.predict.video_writer import CODECS
from gsto_jax.runs.tasks import task_of
from gsto_jax.runs.trained import Trained, load_trained
from gsto_jax.segmentation.compiled_shapes import compilation_note
from modes.person_boxes import Say, read_boxes
from modes.terminal_output import make_console

_FRAMES = ".mp4/"  # between the name of a video and a frame's number
_IMAGE_SETTINGS = tuple(field.name for field in fields(DecodeOptions))
_LISTED = 3  # names in a message, of many
_AHEAD = 3  # images that are read, or being written, at a time


def run(args: Any) -> None:
    """Predicts. Ends with status 1 if a file could not be read. Raises UserError."""
    if not args.checkpoint:
        raise UserError("--mode=predict needs --checkpoint: a run, its best/, or a checkpoint")
    output = Path(args.output or "predictions").expanduser()
    left_out: list[Path] = []
    inputs = find_inputs(args.inputs, output, left_out.append)
    say = partial(make_console().print, soft_wrap=True)
    if left_out:
        names = _some([path.name for path in left_out], " ...")
        say(
            f"warning: {len(left_out)} files have the suffix of no image or video and are left out:"
            f" {names}"
        )
    trained = _with_settings(load_trained(args.checkpoint), args)
    make = _Poses if trained.task.config.task == "pose" else _Labels
    kinds = args.save or make.default_kinds
    if "gates" in kinds and not trained.task.config.model.has_gates:
        raise UserError(f"{trained.path} is of a network without gates: leave them out of --save")
    predict = make(trained, args, inputs, bool(FEATURE_OUTPUTS & set(kinds)), say)
    writer = PredictionWriter(output, kinds, make.kinds, args.legend)
    predict.begin(output)
    for entry in inputs:
        if entry.name.rpartition("/")[2] != entry.path.stem:
            say(f"{entry.path} becomes {entry.name}")
    use_compilation_cache(trained.task.config.run.compilation_cache)
    rule = DecodeOptions.of(trained.config["data"])
    if rule.orientation == "stored":
        _warn_of_orientations(inputs, say)
    work = _Work(predict, rule, writer)
    try:
        work.run(inputs)
    finally:
        predict.finish(output, work.lost)  # however it ends
    for message in work.failed:
        print(f"error: {message}", file=sys.stderr)
    if note := predict.note():
        say(note)
    say(f"{len(inputs) - len(work.lost)} of {len(inputs)} predicted: {', '.join(writer.kinds)}")
    for codec in sorted(writer.codecs - {"avc1"}):
        say(f"videos      {CODECS[codec]}")
    say(f"predictions {output.absolute()}")
    say(f"checkpoint  {trained.path}")
    if work.failed:
        sys.exit(1)


def _some(names: Sequence[str], more: str = ", ...") -> str:
    """Returns the first few names in words."""
    return ", ".join(names[:_LISTED]) + (more if len(names) > _LISTED else "")


def _with_settings(trained: Trained, args: Any) -> Trained:
    """Looks at images as --config.eval.FIELD says, in place of the checkpoint's settings."""
    settings = {name: value for name, value in vars(args).items() if name.startswith("config.")}
    config = {**trained.config}
    for field, value in settings.items():
        _, section, *name = field.split(".")
        shows = section in ("eval", "pose") and option_role(f"{section}.{name[0]}") == RUNTIME
        if not shows and (section != "data" or name[0] not in _IMAGE_SETTINGS):
            raise UserError(
                f"--{field}: the checkpoint has its settings; only those of config.eval, what "
                "config.pose makes of heatmaps, and how image files are read "
                f"(config.data.{', '.join(_IMAGE_SETTINGS)}) may change"
            )
        config[section] = {**config[section], name[0]: value}
    try:
        DecodeOptions.of(config["data"])
    except ValueError as error:
        raise UserError(f"config.data: {error}") from None
    return replace(trained, config=config, task=task_of(config)) if settings else trained


class _Labels:
    """Labels the pixels of images; says so if many shapes will compile."""

    kinds, default_kinds = SEGMENTATION_OUTPUTS, ("overlay", "color", "ids")

    def __init__(
        self, trained: Trained, args: Any, inputs: list[Input], explain: bool, say: Say
    ) -> None:
        if args.boxes:
            raise UserError("--boxes is for poses, and the checkpoint is of a segmentation task")
        pad_to = vars(args).get("config.eval.pad_to")
        self.predictor, self.explain = (
            Predictor.of(trained, args.long_side, pad_to),
            explain,
        )
        sizes = {head.oriented_size(self.predictor.rule) for _, head in _heads(inputs)}
        sizes = {downscaled_size(size, self.predictor.long_side) for size in sizes}
        if note := compilation_note(self.predictor.protocol, sizes):
            say(note)

    def begin(self, output: Path) -> None:
        write_classes(output, self.predictor.classes, self.predictor.palette)

    def __call__(self, entry: Input, image: np.ndarray) -> Prediction:
        return self.predictor(image, self.explain)

    def finish(self, output: Path, lost: Sequence[Input]) -> None:
        pass

    def note(self) -> str | None:
        return None


class _Poses:
    """Finds the joints of the persons in boxes, and keeps them by the name of their image."""

    kinds, default_kinds = POSE_OUTPUTS, ("overlay",)

    def __init__(
        self, trained: Trained, args: Any, inputs: list[Input], explain: bool, say: Say
    ) -> None:
        for name in ("long_side", "legend"):
            if getattr(args, name):
                raise UserError(
                    f"--{name} is for segmentation, and the checkpoint is of a pose task"
                )
        self.predictor, self.explain = PosePredictor(trained), explain
        self.boxes_of, self.frames = read_boxes(args.boxes, inputs, say), Counter[str]()
        self.persons: dict[str, list[dict[str, Any]]] = {}
        self.earlier: dict[str, Any] = {}
        self.empty: list[str] = []  # persons without a joint to draw

    def begin(self, output: Path) -> None:
        write_joints(output, self.predictor.task.joints, self.predictor.task.skeleton)
        self.earlier = read_poses(output)

    def __call__(self, entry: Input, image: np.ndarray) -> PosePrediction:
        boxes = self.boxes_of(entry)
        try:
            prediction = self.predictor(image, boxes, self.explain)
        except UserError as error:
            raise UserError(f"{entry.path}: {error}") from None
        frame = f"{_FRAMES}{self.frames[entry.name]:06d}" if entry.is_video else ""
        name = f"{entry.name}{frame}"
        self.frames[entry.name] += 1
        self.persons[name] = prediction.persons()
        for n in prediction.without_joints():
            self.empty.append(f"{name} {[round(x, 1) for x in prediction.boxes[n].tolist()]}")
        return prediction

    def finish(self, output: Path, lost: Sequence[Input]) -> None:
        """Writes `poses.json`: the skeletons that are drawn have their joints."""
        for entry in lost:
            for name in list(self.persons):
                if name == entry.name or name.startswith(f"{entry.name}{_FRAMES}"):
                    del self.persons[name]
        if self.persons:
            write_poses(output, self.earlier | self.persons)

    def note(self) -> str | None:
        return _empty_note(self.empty, self.predictor.task.config.pose.visibility_threshold)


def _empty_note(empty: Sequence[str], visible: float) -> str | None:
    """Returns which persons have a box in the overlay instead of a skeleton, in words."""
    if not empty:
        return None
    return (
        f"note: no joint of {len(empty)} persons scores {visible:g} (pose.visibility_threshold) "
        f"or more, so that overlays show their boxes: {_some(empty)}"
    )


class _Work:
    """Predicts files, while others are read and written.

    Attributes:
      lost: files without a prediction.
      failed: messages.
    """

    def __init__(
        self, predict: _Labels | _Poses, rule: DecodeOptions, writer: PredictionWriter
    ) -> None:
        self.predict, self.rule, self.writer = predict, rule, writer
        self.lost: list[Input] = []
        self.failed: list[str] = []

    def run(self, inputs: Sequence[Input]) -> None:
        with progress.track("predicting", len(inputs)) as advance:
            self._images([entry for entry in inputs if not entry.is_video], advance)
            for entry in inputs:
                if entry.is_video:
                    with self._losing(entry):
                        self._video(entry)
                    advance()

    @contextmanager
    def _losing(self, entry: Input) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            message = str(error)
        except OSError as error:
            if is_disk_full(error):
                raise
            message = f"cannot write what {entry.path} shows: {error.strerror or error}"
        else:
            return
        self.lost.append(entry)
        self.failed.append(message)

    def _images(self, inputs: Sequence[Input], advance: progress.Advance) -> None:
        with ThreadPoolExecutor(_AHEAD) as readers, ThreadPoolExecutor(_AHEAD) as writers:
            reading: deque[Future[np.ndarray]] = deque()
            writing: deque[tuple[Input, Future[None]]] = deque()
            ahead = iter(inputs)
            for entry in inputs:
                for later in islice(ahead, _AHEAD - len(reading)):
                    reading.append(readers.submit(read_image, later.path, self.rule))
                with self._losing(entry):
                    prediction = self._predicted(entry, reading.popleft().result())
                    write = writers.submit(self.writer.write, entry.name, prediction)
                    writing.append((entry, write))
                while len(writing) > _AHEAD:
                    self._await(*writing.popleft())
                advance()
            while writing:
                self._await(*writing.popleft())

    def _await(self, entry: Input, write: Future[None]) -> None:
        with self._losing(entry):
            write.result()

    def _video(self, entry: Input) -> None:
        frames, rate = count_frames(entry.path)
        count = 0

        def predictions() -> Iterator[Prediction | PosePrediction]:
            nonlocal count
            for frame in video_frames(entry.path):
                yield self._predicted(entry, frame)
                count += 1
                advance()
            if not count:
                raise UserError(f"cannot read {entry.path}: it holds no frame")

        with progress.track(f"predicting {entry.path.name}", frames or None) as advance:
            self.writer.write_video(entry.name, rate, predictions())
        if count < frames - rate:  # some files know their length in seconds only
            self.failed.append(f"{entry.path} ends after {count} of {frames} frames: cut off?")

    def _predicted(self, entry: Input, image: np.ndarray) -> Prediction | PosePrediction:
        try:
            return self.predict(entry, image)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            height, width = image.shape[:2]
            raise UserError(
                f"{entry.path}, {width}x{height}, takes more memory than there is: give a smaller "
                "image, or in segmentation a --long_side"
            ) from None


def _heads(inputs: list[Input]) -> Iterator[tuple[Input, ImageHeader]]:
    """Yields the heads of the images, of those that can be read."""
    for entry in inputs:
        try:
            if not entry.is_video:
                yield entry, read_image_header(entry.path)
        except UserError:
            continue


def _warn_of_orientations(inputs: list[Input], say: Say) -> None:
    """Says which images are not turned as they say, since the run reads them as stored."""
    turned = [entry for entry, head in _heads(inputs) if head.orientation != 1]
    if turned:
        say(
            f"warning: {len(turned)} images have an EXIF orientation, such as {turned[0].path}, "
            "and are read as stored, as in training: --config.data.orientation=upright turns them"
        )
