"""Mean and standard deviation of each channel over all pixels of a split."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from typing import NamedTuple

import numpy as np

from data_pipelines.sources.source import Source


class ChannelStatistics(NamedTuple):
    """Statistics of each channel, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def channel_statistics(
    source: Source, on_record: Callable[[], None] = lambda: None
) -> ChannelStatistics:
    """Computes mean and standard deviation of each channel over all pixels, exactly.

    Histograms are added up, so one image per thread is in memory.

    Args:
      source: the split; its images are as training reads them, before augmentation.
      on_record: called after each image.

    Raises:
      DataError: an image or its label is invalid.
    """

    def read(index: int) -> np.ndarray:
        return _histogram(np.asarray(source[index]["image"]))

    total: np.ndarray | None = None
    with ThreadPoolExecutor(4) as pool:
        for histogram in pool.map(read, range(len(source))):
            total = histogram if total is None else total + histogram
            on_record()
    if total is None:
        raise ValueError("source must have an image; got none")
    statistics = [_mean_and_std([int(n) for n in counts]) for counts in total]
    return ChannelStatistics(*map(tuple, zip(*statistics, strict=True)))


def _histogram(image: np.ndarray) -> np.ndarray:
    """Returns the number of pixels of each value, `c 256` int64, of an image `h w c` uint8."""
    channels = range(image.shape[2])
    return np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in channels])


def _mean_and_std(counts: list[int]) -> tuple[float, float]:
    """Returns mean and standard deviation in 0..1 from the number of pixels of each value."""
    count = sum(counts)
    total = sum(n * value for value, n in enumerate(counts))
    squares = sum(n * value**2 for value, n in enumerate(counts))
    # Integers up to the last division, so that nothing cancels.
    return total / (255 * count), sqrt(count * squares - total**2) / (255 * count)
