"""Writes PNGs of an evaluation in background threads (needs OpenCV)."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np

from gsto_jax.devices.mesh import sum_over_processes
from gsto_jax.drawing.tiles import write_image
from gsto_jax.evaluation.folder import png_paths
from gsto_jax.evaluation.loop import Batch, GetMaps

_TRACKED_SAMPLES = 4
_MAX_PENDING = 16
"""Maximum number of PNGs that wait to be written, which bounds memory."""


class PngWriter(ABC):
    """Writes PNGs of samples up to a limit; a context manager that waits for all writes.

    With several processes each writes PNGs of its own samples, and the limits are divided.

    Args:
      folder: output folder.
      limit: maximum number of samples; -1 for all.
      feature_images: maximum number of samples with feature maps; -1 for all.
      name: returns the file name, without ".png" and possibly with slashes, of a sample by index.

    Attributes:
      num_written: number of PNGs written by this process.
      images: images `h w 3` of the first samples by "kind/number", for the trackers.
    """

    def __init__(
        self, folder: Path, limit: int, feature_images: int, name: Callable[[int], str]
    ) -> None:
        self.folder, self.name = folder, name
        self.limit = _limit_of_process(limit)
        self.feature_images = _limit_of_process(feature_images)
        self.num_written = 0
        self.images: dict[str, np.ndarray] = {}
        self._num_samples = 0
        self._threads = ThreadPoolExecutor(4)
        self._pending: deque[Future[None]] = deque()

    def num_written_by_all(self) -> int:
        """Returns the number of PNGs written by all processes; a collective call."""
        return int(sum_over_processes(np.array([self.num_written], np.float64))[0])

    @abstractmethod
    def draw(
        self, sample: Mapping[str, np.ndarray], prediction: np.ndarray, maps: GetMaps
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Draws a sample.

        Args:
          sample: its arrays of the batch.
          prediction: its prediction.
          maps: returns its feature maps.

        Yields:
          Kind, such as "sample", and image `h w 3`.
        """

    @property
    def wants_sample(self) -> bool:
        """Whether the next sample is within the limit."""
        return self._num_samples < self.limit or self.limit < 0

    @property
    def wants_features(self) -> bool:
        """Whether the next sample is within the limit of feature maps."""
        return self._num_samples < self.feature_images or self.feature_images < 0

    def write(
        self, batch: Batch, predictions: np.ndarray, maps: GetMaps
    ) -> dict[int, tuple[str, ...]]:
        """Draws the valid samples of a batch and writes them in the background.

        Args:
          batch: "index", "mask", and the arrays that `draw` reads.
          predictions: predictions for the batch.
          maps: returns the feature maps of the batch; called only if needed.

        Returns:
          The kinds of PNGs of each valid sample, by its position in the batch.

        Raises:
          ValueError: the name of a sample escapes the folder.
          OSError: an earlier PNG could not be written.
        """
        maps, kinds = cache(maps), {}
        for n in np.flatnonzero(batch["mask"]).tolist():
            sample = {name: values[n] for name, values in batch.items()}
            images = dict(self.draw(sample, predictions[n], partial(_sample_maps, maps, n)))
            name = self.name(int(batch["index"][n]))
            paths = png_paths(self.folder, name, images)
            if images and not paths:
                raise ValueError(f"sample name must be a path inside {self.folder}; got {name!r}")
            for kind, image in images.items():
                self._write(paths[kind], image)
                self.num_written += 1
                if self._num_samples < _TRACKED_SAMPLES:
                    self.images[f"{kind}/{self._num_samples}"] = image
            self._num_samples += 1
            kinds[n] = tuple(images)
        return kinds

    def __enter__(self) -> "PngWriter":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown(cancel_futures=failure is not None)
        if failure is None:
            self.close()

    def close(self) -> None:
        """Waits until all PNGs are written. Raises OSError if a write failed."""
        self._threads.shutdown()
        while self._pending:
            self._pending.popleft().result()

    def _write(self, path: Path, image: np.ndarray) -> None:
        self._pending.append(self._threads.submit(write_image, path, image))
        if len(self._pending) > _MAX_PENDING:
            self._pending.popleft().result()


def _sample_maps(maps: GetMaps, n: int) -> dict[str, np.ndarray]:
    return {name: values[n] for name, values in maps().items()}


def _limit_of_process(limit: int) -> int:
    """Returns the share of this process in a limit; -1, for no limit, stays."""
    count, index = jax.process_count(), jax.process_index()
    return limit if limit < 0 else limit // count + (index < limit % count)
