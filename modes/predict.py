"""Predicts anyone's pictures and videos by a checkpoint alone."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from gsto_jax import reporting
from gsto_jax.config import RUNTIME, role
from gsto_jax.devices.mesh import use_compilation_cache
from gsto_jax.errors import UserError
from gsto_jax.files import is_full
from gsto_jax.image_files import Head, ImageRule
from gsto_jax.ops.padding import reduced_size
from gsto_jax.pose.task import PoseTask
from gsto_jax.predict.files import (
    EXPLAINING,
    Input,
    PredictionWriter,
    find_inputs,
    read_poses,
    write_classes,
    write_joints,
    write_poses,
)
from gsto_jax.predict.media import count_frames, image_head, read_image, video_frames
from gsto_jax.predict.pose import KINDS as POSE_KINDS
from gsto_jax.predict.pose import PosePrediction, PosePredictor
from gsto_jax.predict.segmentation import KINDS, Prediction, Predictor
from gsto_jax.predict.video_writer import CODECS
from gsto_jax.runs.tasks import task_of
from gsto_jax.runs.trained import Trained, load_trained
from gsto_jax.segmentation.compiled_shapes import compilation_note
from modes.person_boxes import read_boxes
from modes.terminal import make_console

Predict = Callable[[Input, np.ndarray], Prediction | PosePrediction]

_FRAMES = ".mp4/"  # between the name of a video and a frame's number
_IMAGE_SETTINGS = tuple(field.name for field in fields(ImageRule))
_SHOWN = 3  # names of files that are left out
_AHEAD = 3  # pictures that are read, or being written, at a time


def run(args: Any) -> None:
    """Predicts. Ends with status 1 if a file could not be read. Raises UserError."""
    if not args.checkpoint:
        raise UserError("--mode=predict needs --checkpoint: a run, its best/, or a checkpoint")
    output = Path(args.output or "predictions").expanduser()
    left_out: list[Path] = []
    inputs = find_inputs(args.inputs, output, left_out.append)
    console = make_console()
    if left_out:
        names = ", ".join(path.name for path in left_out[:_SHOWN])
        more = " ..." if len(left_out) > _SHOWN else ""
        console.print(
            f"warning: {len(left_out)} files have the suffix of no image or video and are left out:"
            f" {names}{more}",
            soft_wrap=True,
        )
    trained = _with_settings(load_trained(args.checkpoint), args)
    pose = isinstance(trained.task, PoseTask)
    known = POSE_KINDS if pose else KINDS
    kinds = args.save or (("overlay",) if pose else ("overlay", "color", "ids"))
    if "gates" in kinds and not trained.task.config.model.has_gates:
        raise UserError(f"{trained.path} is of a network without gates: leave them out of --save")
    explain = bool(EXPLAINING & set(kinds))
    persons: dict[str, list[dict[str, Any]]] = {}
    earlier: dict[str, Any] = {}
    empty: list[tuple[str, list[float]]] = []  # persons without a joint to draw
    if pose:
        predict = _pose_predictor(trained, args, explain, inputs, console, persons, empty)
    else:
        if args.boxes:
            raise UserError("--boxes is for poses, and the checkpoint is of a segmentation task")
        predict = _segmenter(trained, args, explain, inputs, console)
    writer = PredictionWriter(output, kinds, known, args.legend)
    if isinstance(trained.task, PoseTask):
        write_joints(output, trained.task.joints, trained.task.skeleton)
        earlier = read_poses(output)
    else:
        data = trained.config["data"]
        write_classes(output, data["classes"], data["palette"])
    for entry in inputs:
        if entry.name.rpartition("/")[2] != entry.path.stem:
            console.print(f"{entry.path} becomes {entry.name}", soft_wrap=True)
    use_compilation_cache(trained.task.config.run.compilation_cache)
    failed: list[str] = []
    rule = ImageRule.of(trained.config["data"])
    if rule.orientation == "stored":
        _warn_of_orientations(inputs, console)
    work = _Work(predict, rule, writer, failed)
    try:
        with reporting.stage("predicting", len(inputs)) as work.advance:
            pictures = [entry for entry in inputs if not entry.is_video]
            if pictures:
                work.pictures(pictures)
            for entry in inputs:
                if entry.is_video:
                    work.video(entry)
    finally:
        # However it ends: the skeletons that are drawn have their joints.
        for entry in work.lost:
            for name in [name for name in persons if _is_of(name, entry)]:
                del persons[name]
        if persons:
            write_poses(output, earlier | persons)
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    if empty and isinstance(trained.task, PoseTask):
        console.print(_empty_note(empty, trained.task.config.pose.visible), soft_wrap=True)
    done = len(inputs) - len(work.lost)
    console.print(f"{done} of {len(inputs)} predicted: {', '.join(writer.kinds)}")
    for codec in sorted(writer.codecs - {"avc1"}):
        console.print(f"videos      {CODECS[codec]}", soft_wrap=True)
    console.print(f"predictions {output.absolute()}", soft_wrap=True)
    console.print(f"checkpoint  {trained.path}", soft_wrap=True)
    if failed:
        sys.exit(1)


def _with_settings(trained: Trained, args: Any) -> Trained:
    """Looks at pictures as --config.eval.FIELD says, in place of the checkpoint's settings."""
    given = {name: value for name, value in vars(args).items() if name.startswith("config.")}
    config = {**trained.config}
    for field, value in given.items():
        _, section, *name = field.split(".")
        shows = section in ("eval", "pose") and role(f"{section}.{name[0]}") == RUNTIME
        if not shows and (section != "data" or name[0] not in _IMAGE_SETTINGS):
            raise UserError(
                f"--{field}: the checkpoint has its settings; only those of config.eval, what "
                "config.pose makes of heatmaps, and how image files are read "
                f"(config.data.{', '.join(_IMAGE_SETTINGS)}) may change"
            )
        config[section] = {**config[section], name[0]: value}
    try:
        ImageRule.of(config["data"])
    except ValueError as error:
        raise UserError(f"config.data: {error}") from None
    return replace(trained, config=config, task=task_of(config)) if given else trained


def _segmenter(
    trained: Trained, args: Any, explain: bool, inputs: list[Input], console: Console
) -> Predict:
    """Returns what labels the pixels of images; says so if many shapes will compile."""
    predictor = Predictor.of(trained, args.long_side, vars(args).get("config.eval.pad_to"))
    sizes = {head.size_by(predictor.rule) for _, head in _heads(inputs)}
    sizes = {reduced_size(size, predictor.long_side) for size in sizes}
    if note := compilation_note(predictor.protocol, sizes):
        console.print(note, soft_wrap=True)
    return lambda entry, image: predictor(image, explain)


def _pose_predictor(
    trained: Trained,
    args: Any,
    explain: bool,
    inputs: list[Input],
    console: Console,
    persons: dict[str, list[dict[str, Any]]],
    empty: list[tuple[str, list[float]]],
) -> Predict:
    """Finds the joints of the persons in boxes, and keeps them by the name of their image."""
    for name in ("long_side", "legend"):
        if getattr(args, name):
            raise UserError(f"--{name} is for segmentation, and the checkpoint is of a pose task")
    predictor, frames = PosePredictor.of(trained), Counter[str]()
    boxes_of = read_boxes(args.boxes, inputs, console)

    def predict(entry: Input, image: np.ndarray) -> Prediction | PosePrediction:
        boxes = boxes_of(entry)
        try:
            found = predictor(image, boxes, explain)
        except UserError as error:
            raise UserError(f"{entry.path}: {error}") from None
        name = f"{entry.name}{_FRAMES}{frames[entry.name]:06d}" if entry.is_video else entry.name
        frames[entry.name] += 1
        persons[name] = found.persons()
        for n in found.without_joints():
            empty.append((name, found.boxes[n].tolist()))
        return found

    return predict


def _empty_note(empty: Sequence[tuple[str, list[float]]], visible: float) -> str:
    """Returns which persons have a box in the overlay instead of a skeleton, in words."""
    some = ", ".join(f"{name} {[round(x, 1) for x in box]}" for name, box in empty[:3])
    return (
        f"note: no joint of {len(empty)} persons scores {visible:g} (pose.visible) or more, so "
        f"that overlays show their boxes: {some}{', ...' if len(empty) > 3 else ''}"
    )


def _is_of(name: str, entry: Input) -> bool:
    return name == entry.name or name.startswith(f"{entry.name}{_FRAMES}")


class _Work:
    def __init__(
        self,
        predict: Predict,
        rule: ImageRule,
        writer: PredictionWriter,
        failed: list[str],
    ) -> None:
        self.predict, self.rule, self.writer, self.failed = predict, rule, writer, failed
        self.advance: reporting.Advance
        self.lost: list[Input] = []

    def pictures(self, inputs: list[Input]) -> None:
        """Predicts pictures, while others are read and written."""
        with ThreadPoolExecutor(_AHEAD) as readers, ThreadPoolExecutor(_AHEAD) as writers:
            reading: list[Future[np.ndarray]] = []
            writing: list[tuple[Input, Future[None]]] = []
            for n, entry in enumerate(inputs):
                while len(reading) < min(n + _AHEAD, len(inputs)):
                    path = inputs[len(reading)].path
                    reading.append(readers.submit(read_image, path, self.rule))
                try:
                    prediction = self._predicted(entry, reading[n].result())
                    write = writers.submit(self.writer.write, entry.name, prediction)
                    writing.append((entry, write))
                except UserError as error:
                    self._lose(entry, str(error))
                reading[n] = Future()  # lets go of the picture
                while len(writing) > _AHEAD:
                    self._written(*writing.pop(0))
                self.advance()
            for left in writing:
                self._written(*left)

    def _written(self, entry: Input, write: Future[None]) -> None:
        try:
            write.result()
        except OSError as error:
            if is_full(error):
                raise
            self._lose(entry, f"cannot write what {entry.path} shows: {error.strerror or error}")

    def video(self, entry: Input) -> None:
        """Predicts a video."""
        try:
            frames, rate = count_frames(entry.path)
        except UserError as error:
            self._lose(entry, str(error))
            return
        seen = 0

        def predictions() -> Iterator[Prediction | PosePrediction]:
            nonlocal seen
            for frame in video_frames(entry.path):
                yield self._predicted(entry, frame)
                seen += 1
                advance()

        try:
            with reporting.stage(f"predicting {entry.path.name}", frames or None) as advance:
                self.writer.write_video(entry.name, rate, predictions())
        except UserError as error:
            self._lose(entry, str(error))
            return
        except OSError as error:
            if is_full(error):
                raise
            self._lose(entry, f"cannot write what {entry.path} shows: {error.strerror or error}")
            return
        self.advance()
        if seen == 0:
            self._lose(entry, f"cannot read {entry.path}: it holds no frame")
        elif seen < frames - rate:  # some files know their length in seconds only
            self.failed.append(f"{entry.path} ends after {seen} of {frames} frames: cut off?")

    def _predicted(self, entry: Input, image: np.ndarray) -> Prediction | PosePrediction:
        try:
            return self.predict(entry, image)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            height, width = image.shape[:2]
            raise UserError(
                f"{entry.path}, {width}x{height}, takes more memory than there is: give a smaller "
                "picture, or in segmentation a --long_side"
            ) from None

    def _lose(self, entry: Input, message: str) -> None:
        self.lost.append(entry)
        self.failed.append(message)


def _heads(inputs: list[Input]) -> Iterator[tuple[Input, Head]]:
    """Yields the heads of the images, of those that can be read."""
    for entry in inputs:
        try:
            if not entry.is_video:
                yield entry, image_head(entry.path)
        except UserError:
            continue


def _warn_of_orientations(inputs: list[Input], console: Console) -> None:
    """Says which images are not turned as they say, since the run reads them as stored."""
    turned = [entry for entry, head in _heads(inputs) if head.orientation != 1]
    if turned:
        console.print(
            f"warning: {len(turned)} images have an EXIF orientation, such as {turned[0].path}, "
            "and are read as stored, as in training: --config.data.orientation=upright turns them",
            soft_wrap=True,
        )
