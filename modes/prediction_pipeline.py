"""Runs `--mode=predict`: reads, predicts and writes files at the same time."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from gsto_jax import progress
from gsto_jax.errors import UserError
from gsto_jax.files import is_disk_full
from gsto_jax.image_files import DecodeOptions
from gsto_jax.predict.files import PredictionWriter, Renderable
from gsto_jax.predict.georeference import Georeference, read_georeference
from gsto_jax.predict.inputs import Input
from gsto_jax.predict.media import count_frames, read_image, video_frames
from gsto_jax.predict.prediction import Prediction
from gsto_jax.predict.programs import ProgramError, is_out_of_memory
from gsto_jax.predict.row_readers import RowReader, open_rows
from gsto_jax.storage import local_copy
from gsto_jax.types import Size

_PREFETCH = 3  # number of images being read, and being written, at a time


class InputPredictor(ABC):
    """Base of the objects that predict the images of inputs.

    Attributes:
      outputs: names of the outputs that the predictions can render.
      default_outputs: names of the outputs to write without --save.
      checkpoint: checkpoint or exported program.
      runtime: JAX or ONNX Runtime, and the reason, for the log.
      decode_options: how image files are decoded.
      tiled: inputs that are read, predicted and written in rows of tiles.
      georeferenced: inputs whose georeference the predictions keep.
    """

    outputs: ClassVar[tuple[str, ...]]
    default_outputs: ClassVar[tuple[str, ...]]
    checkpoint: Path
    runtime: str = ""
    decode_options: DecodeOptions
    tiled: Collection[Input] = frozenset()
    georeferenced: Collection[Input] = frozenset()

    @abstractmethod
    def __call__(self, entry: Input, image: np.ndarray) -> Renderable:
        """Predicts an image, or a frame of a video."""

    def predict_rows(self, entry: Input, image: RowReader) -> Iterator[Prediction]:
        """Predicts an image of `tiled`, from top to bottom."""
        raise NotImplementedError

    @abstractmethod
    def write_legend(self, output: Path) -> None:
        """Writes the names of classes or joints, before anything is predicted."""

    @abstractmethod
    def write_results(self, output: Path, failed: Sequence[Input]) -> None:
        """Writes the results that are shared by the inputs, after all are predicted."""

    @abstractmethod
    def note(self) -> str | None:
        """Returns a summary of the predictions for the log, or None."""


class PredictionPipeline:
    """Predicts files while the next ones are read and the previous ones are written.

    Args:
      predictor: predicts images.
      writer: writes predictions.

    Attributes:
      failed: inputs without a prediction.
      errors: error messages.
    """

    def __init__(self, predictor: InputPredictor, writer: PredictionWriter) -> None:
        self.predictor, self.writer = predictor, writer
        self.decode_options = predictor.decode_options
        self.failed: list[Input] = []
        self.errors: list[str] = []

    def run(self, inputs: Sequence[Input]) -> None:
        """Predicts all inputs.

        Raises:
          OSError: the disk is full.
          ProgramError: the exported program fails.
        """
        with progress.track("predicting", len(inputs)) as advance:
            self._predict_images(
                [x for x in inputs if not x.is_video and x not in self.predictor.tiled], advance
            )
            for entry in inputs:
                if entry.is_video or entry in self.predictor.tiled:
                    with self._errors_recorded(entry):
                        (self._predict_video if entry.is_video else self._predict_tiles)(entry)
                    advance()

    @contextmanager
    def _errors_recorded(self, entry: Input) -> Iterator[None]:
        """Records errors of an input, so that the other inputs are still processed."""
        try:
            yield
        except ProgramError:
            raise  # it would fail on the other inputs too
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
            reads: deque[Future[tuple[np.ndarray, Georeference | None]]] = deque()
            writes: deque[tuple[Input, Future[None]]] = deque()
            unread = iter(inputs)
            for entry in inputs:
                for upcoming in islice(unread, _PREFETCH - len(reads)):
                    reads.append(readers.submit(self._read, upcoming))
                with self._errors_recorded(entry):
                    image, georeference = reads.popleft().result()
                    prediction = self._predict(entry, image)
                    arguments = entry.name, prediction, georeference
                    writes.append((entry, writers.submit(self.writer.write, *arguments)))
                while len(writes) > _PREFETCH:
                    self._wait_for_write(*writes.popleft())
                advance()
            while writes:
                self._wait_for_write(*writes.popleft())

    def _wait_for_write(self, entry: Input, write: Future[None]) -> None:
        with self._errors_recorded(entry):
            write.result()

    def _read(self, entry: Input) -> tuple[np.ndarray, Georeference | None]:
        return read_image(entry.path, self.decode_options), self._georeference(entry)

    def _georeference(self, entry: Input) -> Georeference | None:
        if entry not in self.predictor.georeferenced:
            return None
        with local_copy(entry.path) as path:
            return read_georeference(path)

    def _predict_tiles(self, entry: Input) -> None:
        with local_copy(entry.path) as path, open_rows(path, self.decode_options) as image:
            predictions = self.predictor.predict_rows(entry, image)
            with _memory_errors(entry, image.size):
                self.writer.write_rows(
                    entry.name, image.size, predictions, self._georeference(entry)
                )

    def _predict_video(self, entry: Input) -> None:
        if self.decode_options.channels != 3:
            raise UserError(
                f"cannot predict {entry.path}: videos are RGB, and the checkpoint takes images of "
                f"config.data.channels={self.decode_options.channels}"
            )
        with local_copy(entry.path) as path:
            self._predict_frames(entry, path)

    def _predict_frames(self, entry: Input, path: Path) -> None:
        """Predicts the frames of a video on this machine."""
        frames, rate = count_frames(path)
        count = 0

        def predictions() -> Iterator[Renderable]:
            nonlocal count
            for frame in video_frames(path):
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

    def _predict(self, entry: Input, image: np.ndarray) -> Renderable:
        with _memory_errors(entry, (image.shape[0], image.shape[1])):
            return self.predictor(entry, image)


@contextmanager
def _memory_errors(entry: Input, size: Size) -> Iterator[None]:
    """Converts exhausted memory of the devices into a UserError."""
    try:
        yield
    except RuntimeError as error:  # of JAX or of ONNX Runtime
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{entry.path}, {size[1]}x{size[0]}, does not fit into memory: use a smaller image, or "
            "for a segmentation checkpoint a smaller --long_side or --tile"
        ) from None
