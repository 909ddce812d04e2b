"""Writes metrics and images for TensorBoard, with TensorFlow, which the library never imports.

For a bucket, event files are written to a temporary folder and uploaded by `flush`, since
TensorFlow's client of buckets has credentials and retries of its own, or none at all.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsto_jax.errors import TrainingError
from gsto_jax.files import add_files, is_remote

UPLOAD_SECONDS = 120.0
"""Longest time that scalars for a bucket are only on this machine."""
MAX_UPLOAD_BYTES = 2**24
"""Size of event files from which new ones are begun."""


class TensorBoardWriter:
    """A `clu.metric_writers.SummaryWriter` whose errors are `TrainingError`s.

    Args:
      folder: folder of the event files, local or in a bucket.
    """

    address = ""

    def __init__(self, folder: Path) -> None:
        # Otherwise TensorFlow, which computes nothing here, logs the CPU features it would use.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        from clu.metric_writers import SummaryWriter

        self._folder, self._make = folder, SummaryWriter
        self._local = tempfile.TemporaryDirectory() if is_remote(folder) else None
        self._last_upload = time.monotonic()
        with self._convert_errors():
            self._writer = self._make(self._local.name if self._local else str(folder))

    def write_scalars(self, step: int, scalars: Any) -> None:
        """Writes scalars of a step by name."""
        with self._convert_errors():
            self._writer.write_scalars(step, scalars)
        if self._local and time.monotonic() - self._last_upload > UPLOAD_SECONDS:
            self.flush()

    def write_images(self, step: int, images: Any) -> None:
        """Writes images of a step, `n h w 3` uint8, by name."""
        with self._convert_errors():
            self._writer.write_images(step, images)

    def flush(self) -> None:
        """Writes buffered values to the files, and uploads those for a bucket."""
        with self._convert_errors():
            self._writer.flush()
        if self._local:
            self._last_upload = time.monotonic()
            self._upload(Path(self._local.name))

    def close(self, failed: bool) -> None:
        """Closes the files."""
        with self._convert_errors():
            self._writer.close()
        if self._local:
            with self._local as local:
                self._upload(Path(local))

    def _upload(self, local: Path) -> None:
        """Uploads the event files. A large one is ended, so that it is not uploaded again."""
        add_files(local, self._folder)
        files = [file for file in local.rglob("*") if file.is_file()]
        if sum(file.stat().st_size for file in files) > MAX_UPLOAD_BYTES:
            self._writer.close()
            for file in files:
                file.unlink()
            self._writer = self._make(str(local))

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
