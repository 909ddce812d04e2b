"""Writes metrics and images for TensorBoard, with TensorFlow, which the library never imports."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsto_jax.errors import TrainingError


class TensorBoardWriter:
    """A `clu.metric_writers.SummaryWriter` whose errors are `TrainingError`s.

    Args:
      folder: folder of the event files.
    """

    address = ""

    def __init__(self, folder: Path) -> None:
        # Otherwise TensorFlow, which computes nothing here, logs the CPU features it would use.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        from clu.metric_writers import SummaryWriter

        self._folder = folder
        with self._convert_errors():
            self._writer = SummaryWriter(str(folder))

    def write_scalars(self, step: int, scalars: Any) -> None:
        """Writes scalars of a step by name."""
        with self._convert_errors():
            self._writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Any) -> None:
        """Writes images of a step, `n h w 3` uint8, by name."""
        with self._convert_errors():
            self._writer.write_images(step, images)

    def flush(self) -> None:
        """Writes buffered values to the files."""
        with self._convert_errors():
            self._writer.flush()

    def close(self, failed: bool) -> None:
        """Closes the files."""
        with self._convert_errors():
            self._writer.close()

    @contextmanager
    def _convert_errors(self) -> Iterator[None]:
        """Converts TensorFlow's errors, such as of a full disk, to a TrainingError."""
        from tensorflow.errors import OpError

        try:
            yield
        except OpError as error:
            reason = str(error).splitlines()[0].rpartition("; ")[2][:200]
            raise TrainingError(
                f"cannot write TensorBoard files to {self._folder} ({reason}): free disk space, or "
                "leave tensorboard out of config.run.trackers, and run the same command again to "
                "resume"
            ) from None
