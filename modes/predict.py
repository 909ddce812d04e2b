"""Predicts anyone's pictures and videos by a checkpoint alone."""

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

from gsto_jax.errors import UserError
from gsto_jax.media import count_frames, image_size, read_image, video_frames
from gsto_jax.parallel import use_compilation_cache
from gsto_jax.prediction_files import EXPLAINING, Input, PredictionWriter, find_inputs
from gsto_jax.predictor import Prediction, Predictor
from gsto_jax.protocol import protocol_of
from gsto_jax.tasks import task_of
from modes.common import DEFAULTS
from modes.terminal import make_console

_SHAPES = 6  # of pictures, before they are rounded to share some
_MULTIPLE = 32
_AHEAD = 3  # pictures that are read, or being written, at a time


def run(args: Any) -> None:
    """Predicts. Ends with status 1 if a file could not be read. Raises UserError."""
    if not args.checkpoint:
        raise UserError("--mode=predict needs --checkpoint: a run, its best/, or a checkpoint")
    output = Path(args.output or "predictions").expanduser()
    inputs = find_inputs(args.inputs, output)
    console = make_console()
    predictor = Predictor.load(args.checkpoint, args.long_side, max(1, args.multiple), DEFAULTS)
    predictor = _with_settings(predictor, args)
    if "gates" in args.save and not predictor.has_gates:
        raise UserError(f"{predictor.path} is of a network without gates: leave them out of --save")
    writer = PredictionWriter(output, args.save, predictor.classes, predictor.palette)
    if not args.multiple and not predictor.protocol.suits_any_canvas:
        sizes = _sizes(inputs)
        shapes = set(map(predictor.working_size, sizes))
        if len(shapes) > _SHAPES:
            predictor = replace(predictor, protocol=replace(predictor.protocol, multiple=_MULTIPLE))
            rounded = set(map(predictor.working_size, sizes))
            console.print(
                f"{len(shapes)} shapes of pictures: scaled to {len(rounded)} whose sides are "
                f"multiples of {_MULTIPLE}; --multiple=1 keeps them",
                soft_wrap=True,
            )
    for entry in inputs:
        if entry.name.rpartition("/")[2] != entry.path.stem:
            console.print(f"{entry.path} becomes {entry.name}", soft_wrap=True)
    use_compilation_cache(predictor.task.config.run.compilation_cache)
    failed: list[str] = []
    explain = bool(EXPLAINING & set(args.save))
    with Progress(console=console) as progress:
        work = _Work(predictor, writer, explain, progress, failed)
        pictures = [entry for entry in inputs if not entry.is_video]
        if pictures:
            work.pictures(pictures)
        for entry in inputs:
            if entry.is_video:
                work.video(entry)
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    done = len(inputs) - work.lost
    console.print(f"{done} of {len(inputs)} predicted: {', '.join(writer.kinds)}")
    console.print(f"predictions {output.absolute()}", soft_wrap=True)
    console.print(f"checkpoint  {predictor.path}", soft_wrap=True)
    if failed:
        sys.exit(1)


def _with_settings(predictor: Predictor, args: Any) -> Predictor:
    """Looks at pictures as --config.eval.FIELD says, in place of the checkpoint's settings."""
    given = {name: value for name, value in vars(args).items() if name.startswith("config.")}
    for name in given:
        if not name.startswith("config.eval."):
            raise UserError(
                f"--{name}: the checkpoint has its settings; only config.eval may change"
            )
    if not given:
        return predictor
    changed = {name.removeprefix("config.eval."): value for name, value in given.items()}
    config = {**predictor.config, "eval": {**predictor.config["eval"], **changed}}
    task_of(config)  # checks them
    multiple = predictor.protocol.multiple
    return replace(predictor, protocol=replace(protocol_of(config), multiple=multiple))


class _Work:
    def __init__(
        self,
        predictor: Predictor,
        writer: PredictionWriter,
        explain: bool,
        progress: Progress,
        failed: list[str],
    ) -> None:
        self.predictor, self.writer, self.explain = predictor, writer, explain
        self.progress, self.failed = progress, failed
        self.lost = 0

    def pictures(self, inputs: list[Input]) -> None:
        """Predicts pictures, while others are read and written."""
        bar = self.progress.add_task("pictures", total=len(inputs))
        with ThreadPoolExecutor(_AHEAD) as readers, ThreadPoolExecutor(_AHEAD) as writers:
            reading: list[Future[np.ndarray]] = []
            writing: list[tuple[Input, Future[None]]] = []
            for n, entry in enumerate(inputs):
                while len(reading) < min(n + _AHEAD, len(inputs)):
                    reading.append(readers.submit(read_image, inputs[len(reading)].path))
                try:
                    prediction = self._predicted(entry, reading[n].result())
                    write = writers.submit(self.writer.write, entry.name, prediction)
                    writing.append((entry, write))
                except UserError as error:
                    self._lose(str(error))
                reading[n] = Future()  # lets go of the picture
                while len(writing) > _AHEAD:
                    self._written(*writing.pop(0))
                self.progress.advance(bar)
            for left in writing:
                self._written(*left)

    def _written(self, entry: Input, write: Future[None]) -> None:
        try:
            write.result()
        except OSError as error:
            self._lose(f"cannot write what {entry.path} shows: {error.strerror or error}")

    def video(self, entry: Input) -> None:
        """Predicts a video."""
        try:
            frames, rate = count_frames(entry.path)
        except UserError as error:
            self._lose(str(error))
            return
        bar = self.progress.add_task(entry.path.name, total=frames or None)
        seen = 0

        def predictions() -> Iterator[Prediction]:
            nonlocal seen
            for frame in video_frames(entry.path):
                yield self._predicted(entry, frame)
                seen += 1
                self.progress.advance(bar)

        try:
            self.writer.write_video(entry.name, rate, predictions())
        except UserError as error:
            self._lose(str(error))
            return
        except OSError as error:
            self._lose(f"cannot write what {entry.path} shows: {error.strerror or error}")
            return
        if seen == 0:
            self._lose(f"cannot read {entry.path}: it holds no frame")
        elif seen < frames - rate:  # some files know their length in seconds only
            self.failed.append(f"{entry.path} ends after {seen} of {frames} frames: cut off?")

    def _predicted(self, entry: Input, image: np.ndarray) -> Prediction:
        try:
            return self.predictor(image, self.explain)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            height, width = image.shape[:2]
            raise UserError(
                f"{entry.path}, {width}x{height}, takes more memory than there is: give a "
                "--long_side"
            ) from None

    def _lose(self, message: str) -> None:
        self.lost += 1
        self.failed.append(message)


def _sizes(inputs: list[Input]) -> set[tuple[int, int]]:
    """Sizes of the pictures, of those that can be read."""
    found = set()
    for entry in inputs:
        try:
            if not entry.is_video:
                found.add(image_size(entry.path))
        except UserError:
            continue
    return found
