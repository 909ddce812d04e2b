"""Measures how many images per second the input pipelines of training and evaluation deliver."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.pipeline import EvalBatches, augmentation, train_batches
from data_pipelines.sources.source import Source

Clock = Callable[[], float]
_WARM_UP_BATCHES = 4
"""Batches of each worker before the clock starts: as many as it reads ahead while others start."""


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Mean cost of a training image, in one thread.

    Attributes:
      read: seconds to read what is stored.
      decode: seconds to decode it; images in tiles are decoded by `augment`.
      augment: seconds to resample the crop, and its label.
      stored_bytes: size of what is stored.
      images: number of measured images.
    """

    read: float
    decode: float
    augment: float
    stored_bytes: float
    images: int


def measure_stages(
    config: DataConfig, source: Source, seconds: float, clock: Clock = time.perf_counter
) -> StageSeconds:
    """Measures the stages of training images for some seconds, and of one image at least."""
    transform, order = augmentation(config), np.random.default_rng(0)
    totals, images, start = np.zeros(4), 0, clock()
    for index in order.permutation(len(source)).tolist():
        first = clock()
        size = source.stored_bytes(index)
        second = clock()
        source.stored_bytes(index)  # from memory, as when the example is decoded next
        third = clock()
        example = source[index]
        fourth = clock()
        transform.random_map(example, order)
        decode = max(0.0, (fourth - third) - (third - second))
        totals += (second - first, decode, clock() - fourth, size)
        images += 1
        if clock() - start >= seconds:
            break
    read, decode, augment, size = (totals / images).tolist()
    return StageSeconds(read=read, decode=decode, augment=augment, stored_bytes=size, images=images)


def train_throughput(
    config: DataConfig,
    source: Source,
    batch_size: int,
    *,
    workers: int,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> float:
    """Returns the training images per second, after the start of the worker processes.

    Args:
      config: the dataset and its augmentation.
      source: the training examples.
      batch_size: batch size of this process.
      workers: number of worker processes; 0: threads.
      seconds: duration of the measurement; it ends when all workers had their turn.
      clock: returns the time in seconds.
    """
    turn = max(1, workers)
    batches = train_batches(replace(config, workers=workers), source, batch_size, seed=0)
    with closing(batches):
        for _ in range(_WARM_UP_BATCHES * turn):
            next(batches)
        images, start = 0, clock()
        while True:
            for _ in range(turn):
                images += len(next(batches)["index"])
            elapsed = clock() - start
            if elapsed >= seconds:
                return images / elapsed


def evaluation_throughput(
    batches: EvalBatches, seconds: float, clock: Clock = time.perf_counter
) -> float:
    """Returns the evaluation images per second, from start to end or for some seconds.

    The start of worker processes is left out where there are enough batches.
    """
    warm_up = _WARM_UP_BATCHES * max(1, batches.workers)
    images, start = 0, clock()
    with closing(iter(batches)) as iterator:
        for number, batch in enumerate(iterator, 1):
            images += int(batch["mask"].sum())
            if number == warm_up and len(batches) > 2 * warm_up:
                images, start = 0, clock()
            elif clock() - start >= seconds:
                break
    return images / max(clock() - start, 1e-9)
