"""From a source to batches: shuffling, host slicing, padding."""

import signal
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from data_pipelines.audit import Inspection
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.folder import FolderSource
from data_pipelines.person_transforms import PersonCrop
from data_pipelines.persons import PersonSource
from data_pipelines.scenes import ScenesSource
from data_pipelines.tfds_source import TfdsSource
from data_pipelines.transforms import RandomScaleCropFlip

# Two threads, two elements ahead: more only holds memory.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to labelled pictures."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns image `h w 3` uint8 RGB, label `h w` uint8 train ids, index int.

        Image and label are arrays, or what decodes as it is sliced like one.
        """
        ...

    def name(self, index: int) -> str:
        """Returns a name to save results under."""
        ...

    def inspect(self, index: int) -> Inspection:
        """Returns what the label holds, and what is wrong with the record."""
        ...


def make_source(config: DataConfig, split: str) -> Source:
    """Builds the source of a split.

    Args:
        config: the data set.
        split: `config.train_split`, `config.eval_split`, or for folders any other.

    Raises:
        DataError: the split's files are not there, or scenes have no such split.
    """
    if config.source == "folder":
        return FolderSource(config, split)
    if config.source == "tfds":
        return (
            TfdsSource(config, split) if config.keypoints is None else PersonSource(config, split)
        )
    sizes = {config.eval_split: config.eval_size, config.train_split: config.train_size}
    if split not in sizes:
        raise DataError(f"Scenes have no split {split!r}; use {' or '.join(sizes)}.")
    return ScenesSource(split, sizes[split], config.image_size)


def train_batches(
    config: DataConfig,
    source: Source,
    batch_size: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "TrainBatches":
    """Batches of augmented pictures, for ever.

    An epoch is `len(source) // batch_size` batches: its last pictures, too few for a batch, are
    left out, different ones each epoch. Slicing by host comes last, so the hosts' batches
    interleave to the stream of a single host.

    Args:
        config: the augmentation and the number of worker processes.
        source: the pictures.
        batch_size: over all hosts.
        seed: of the order and the augmentation, 0 .. 2**32 - 1.
        shard_index: this host's number.
        shard_count: how many hosts there are.

    Returns:
        An iterator of dicts, b = batch_size // shard_count: image uint8 `b h w 3`, label uint8
        `b h w`, size int32 `b 2` (rows and columns inside the picture), index int32 `b`. Of
        persons: what `PersonCrop` returns.

    Raises:
        DataError: the batch is larger than the source or does not divide by the hosts. While
            iterating: whatever the source finds wrong with a file.
    """
    _check_shard(shard_index, shard_count)
    if batch_size < 1 or batch_size % shard_count:
        raise DataError(
            f"Batch size {batch_size} does not divide over {shard_count} hosts;"
            f" use a positive multiple of {shard_count}."
        )
    steps = len(source) // batch_size
    if not steps:
        raise DataError(
            f"Batch size {batch_size} is larger than the training set of {len(source)} pictures;"
            " use a smaller batch or more pictures."
        )
    pictures = grain.MapDataset.source(source).seed(seed).shuffle().random_map(_augment(config))
    stream = pictures[: steps * batch_size].repeat()
    batches = stream[shard_index::shard_count].batch(batch_size // shard_count)
    return TrainBatches(batches, config.workers)


def _augment(config: DataConfig) -> grain.transforms.RandomMap:
    if config.keypoints is not None:
        return PersonCrop(
            crop=config.crop,
            padding=config.keypoints.padding,
            rotation=config.keypoints.rotation,
            scale=config.keypoints.scale,
            flip=config.flip,
            flip_pairs=config.keypoints.flip_pairs,
        )
    return RandomScaleCropFlip(
        crop=config.crop,
        base_size=config.base_size,
        scale_min=config.scale_min,
        scale_step=config.scale_step,
        scale_count=config.scale_count,
        fixed_size=config.fixed_size,
        flip=config.flip,
        flip_pairs=config.flip_pairs,
        ignore_label=config.ignore_label,
    )


class TrainBatches:
    """An endless iterator over batches that resumes exactly.

    Its state counts the batches taken, over all hosts, so that a run may go on with another number
    of hosts or worker processes.

    Args:
        batches: this host's, by their number.
        workers: processes that prepare them; 0: threads of this process.
    """

    def __init__(self, batches: grain.MapDataset[Batch], workers: int) -> None:
        self._batches, self._workers = batches, workers
        self._taken = 0
        self._iterator: grain.DatasetIterator[Batch] | None = None

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._start()
        batch = next(self._iterator)
        self._taken += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns where the iterator stands, as plain values."""
        return {"batches": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves the iterator to where it stood."""
        self.close()
        self._taken = state["batches"]

    def close(self) -> None:
        """Ends the worker processes; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _start(self) -> grain.DatasetIterator[Batch]:
        dataset = self._batches[self._taken :].to_iter_dataset(_READ)
        if self._workers:
            # grain's workers read absl flags, which only an absl program has parsed by now.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self._workers)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_ignore_interrupt)
        return iter(dataset)


def _ignore_interrupt(index: int, count: int) -> None:
    """Leaves Ctrl-C, which reaches every process of a terminal, to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def eval_batches(
    source: Source,
    batch_size: int,
    shard_index: int = 0,
    shard_count: int = 1,
    max_waiting: int = 64,
) -> Iterator[Batch]:
    """Batches of whole pictures, every picture of the source once over all shards.

    Pictures of one size share a batch, and every batch of a size has the same shape: one that
    lacks pictures repeats its last one with mask False. Shards may yield different numbers of
    batches, so a caller must not join them in one collective computation.

    Args:
        source: the pictures.
        batch_size: pictures in a batch of this shard.
        shard_index: this shard's number.
        shard_count: how many shards there are; each takes every `shard_count`-th picture.
        max_waiting: how many pictures may wait for others of their size; beyond it the largest
            unfinished batch is padded and leaves. It bounds the memory where sizes are many.

    Returns:
        An iterator of dicts: image uint8 `b h w 3`, label uint8 `b h w`, index int32 `b`, mask
        bool `b`, True for the pictures to count. Of persons: what `PersonCrop` returns, and mask.

    Raises:
        DataError: an impossible batch size or shard. While iterating: whatever the source finds
            wrong with a file.
    """
    _check_shard(shard_index, shard_count)
    if batch_size < 1:
        raise DataError(f"Batch size {batch_size} is not positive; use at least 1.")
    pictures = grain.MapDataset.source(source)[shard_index::shard_count]
    if isinstance(source, PersonSource):
        pictures = pictures.map(partial(_cut_out, source.config))
    return _by_size(pictures.to_iter_dataset(_READ), batch_size, max_waiting)


def _cut_out(config: DataConfig, person: dict[str, Any]) -> dict[str, Any]:
    """A person's picture, without anything random."""
    assert config.keypoints is not None
    crop = PersonCrop(crop=config.crop, padding=config.keypoints.padding)
    return crop.random_map(person, np.random.default_rng(0))


def _by_size(
    pictures: grain.IterDataset[dict[str, Any]], batch_size: int, max_waiting: int
) -> Iterator[Batch]:
    waiting: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for picture in pictures:
        size = picture["image"].shape
        group = waiting.setdefault(size, [])
        group.append(picture)
        if len(group) == batch_size:
            yield _padded_batch(waiting.pop(size), batch_size)
        elif sum(map(len, waiting.values())) > max_waiting:
            fullest = max(waiting, key=lambda size: len(waiting[size]))
            yield _padded_batch(waiting.pop(fullest), batch_size)
    for group in waiting.values():
        yield _padded_batch(group, batch_size)


def _padded_batch(pictures: list[dict[str, Any]], batch_size: int) -> Batch:
    rows = pictures + pictures[-1:] * (batch_size - len(pictures))
    batch = {key: np.stack([np.asarray(row[key]) for row in rows]) for key in rows[0]}
    batch["index"] = batch["index"].astype(np.int32)
    return batch | {"mask": np.arange(batch_size) < len(pictures)}


def _check_shard(shard_index: int, shard_count: int) -> None:
    if not 0 <= shard_index < shard_count:
        raise DataError(f"There is no shard {shard_index} of {shard_count}; count from 0.")
