"""Measures how many images per second the input pipelines of training and evaluation deliver."""

import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

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


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Speed of an input pipeline.

    Attributes:
      images_per_second: images, or persons, per second.
      busy_cores: CPU seconds per second, of this process and its worker processes.
    """

    images_per_second: float
    busy_cores: float


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
) -> Throughput:
    """Measures the training input, after the start of the worker processes.

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
        images, cpu_start, start = 0, cpu_seconds(), clock()
        while True:
            for _ in range(turn):
                images += len(next(batches)["index"])
            elapsed = clock() - start
            if elapsed >= seconds:
                busy = (cpu_seconds() - cpu_start) / elapsed
                return Throughput(images_per_second=images / elapsed, busy_cores=busy)


def cpu_seconds() -> float:
    """Returns the CPU time of this process and, on Linux, of its child processes, in seconds."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        with suppress(OSError):
            text = Path(f"/proc/{child.pid}/stat").read_text()
            user, system = text.rpartition(")")[2].split()[11:13]  # after the program's name
            seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return seconds


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
