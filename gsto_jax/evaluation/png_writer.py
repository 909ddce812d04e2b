"""PNGs of what an evaluation saw, written while it goes on (needs OpenCV)."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import jax
import numpy as np

from gsto_jax.devices.mesh import sum_over_processes
from gsto_jax.drawing.tiles import write_image
from gsto_jax.evaluation.folder import png_paths

_SHOWN = 4
_WAITING = 16
"""How many PNGs may wait to be written: they hold memory."""


class PngWriter(ABC):
    """Writes images of samples up to a limit; a context that ends when all are written.

    Several processes share the limits, and each draws of its own samples.

    Args:
      folder: where to.
      limit: how many samples are drawn at most; -1 for all.
      feature_images: how many of them show what the network looked at too; -1 for all.
      name: file name, less ".png", of the sample of an index; may hold slashes.

    Attributes:
      written: how many PNGs, by this process.
      shown: the first few images, `h w 3`, by "kind/number": for TensorBoard.
    """

    def __init__(
        self, folder: Path, limit: int, feature_images: int, name: Callable[[int], str]
    ) -> None:
        self.folder, self.name = folder, name
        self.limit, self.feature_images = _own_part(limit), _own_part(feature_images)
        self.written, self.seen = 0, 0
        self.shown: dict[str, np.ndarray] = {}
        self._threads = ThreadPoolExecutor(4)
        self._waiting: deque[Future[None]] = deque()

    def written_by_all(self) -> int:
        """How many PNGs all processes have written, which each must call together."""
        return int(sum_over_processes(np.array([self.written], np.float64))[0])

    @abstractmethod
    def draw(
        self,
        batch: Mapping[str, np.ndarray],
        predictions: np.ndarray,
        maps: Callable[[], Mapping[str, np.ndarray]],
        n: int,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Draws sample n of a batch: images `h w 3` by kind; "sample" is the main one."""

    @property
    def is_drawn(self) -> bool:
        """Whether the next sample is within the limit."""
        return self.seen < self.limit or self.limit < 0

    @property
    def is_explained(self) -> bool:
        """Whether the next sample shows what the network looked at."""
        return self.seen < self.feature_images or self.feature_images < 0

    def write(
        self,
        batch: Mapping[str, np.ndarray],
        predictions: np.ndarray,
        maps: Callable[[], Mapping[str, np.ndarray]],
    ) -> dict[int, tuple[str, ...]]:
        """Writes the samples of a batch that count.

        Args:
          batch: "index", "mask", and what `draw` reads.
          predictions: of the batch.
          maps: returns those that explain them, or none; called only to show them.

        Returns:
          By the place in the batch of those that count: the kinds that were written.

        Raises:
          ValueError: a name that leads out of the folder.
          OSError: an earlier PNG could not be written.
        """
        maps, drawn = cache(maps), {}
        for n in np.flatnonzero(batch["mask"]).tolist():
            images = dict(self.draw(batch, predictions, maps, n))
            name = self.name(int(batch["index"][n]))
            paths = png_paths(self.folder, name, images)
            if images and not paths:
                raise ValueError(f"the image {name} would lie outside {self.folder}")
            for kind, image in images.items():
                self._write(paths[kind], image)
                self.written += 1
                if self.seen < _SHOWN:
                    self.shown[f"{kind}/{self.seen}"] = image
            self.seen += 1
            drawn[n] = tuple(images)
        return drawn

    def __enter__(self) -> "PngWriter":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown(cancel_futures=failure is not None)
        if failure is None:
            self.close()

    def close(self) -> None:
        """Returns when all PNGs are written. Raises OSError if that failed."""
        self._threads.shutdown()
        while self._waiting:
            self._waiting.popleft().result()

    def _write(self, path: Path, image: np.ndarray) -> None:
        self._waiting.append(self._threads.submit(write_image, path, image))
        if len(self._waiting) > _WAITING:
            self._waiting.popleft().result()


def _own_part(limit: int) -> int:
    """Of a limit for all processes, the part of this one; -1, for all, stays."""
    count, first = jax.process_count(), jax.process_index()
    return limit if limit < 0 else limit // count + (first < limit % count)
