"""Metrics and images for TensorBoard; here and not in the library, which knows no TensorFlow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gsto_jax.errors import TrainingError, UserError


def check_tensorboard() -> None:
    """Raises UserError unless the packages that TensorBoard's files need are installed."""
    # Found, not imported: that takes seconds, which a run that is refused should not.
    missing = [name for name in ("clu", "tensorboard", "tensorflow") if not find_spec(name)]
    if missing:
        raise UserError(
            f"run.tensorboard needs packages that are missing ({', '.join(missing)}): pip "
            "install '.[train]' in a clone, or give --config.run.tensorboard=False"
        )


class TensorBoardWriter:
    """Writes for TensorBoard through clu.

    Args:
      folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        # Or TensorFlow, which computes nothing here, says what it would compute with.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        from clu.metric_writers import SummaryWriter

        self._folder = folder
        with self._told():
            self._writer = SummaryWriter(str(folder))

    def write_scalars(self, step: int, scalars: Any) -> None:
        """Writes numbers of a step by name."""
        with self._told():
            self._writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Any) -> None:
        """Writes images of a step, `n h w 3` uint8, by name."""
        with self._told():
            self._writer.write_images(step, images)

    def flush(self) -> None:
        """Writes what waits in memory."""
        with self._told():
            self._writer.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns TensorFlow's errors, as of a full disk, into one that names the folder."""
        from tensorflow.errors import OpError

        try:
            yield
        except OpError as error:
            reason = str(error).splitlines()[0].rpartition("; ")[2][:200]
            raise TrainingError(
                f"TensorBoard's files in {self._folder} cannot be written ({reason}): make room, "
                "or give --config.run.tensorboard=False, and give the same command again"
            ) from None
