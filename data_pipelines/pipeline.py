"""From a source to batches: shuffling, host slicing, padding."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from data_pipelines.buckets import Bucket, Size, choose_padded_shapes, padded_shape_of, plan_batches
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.monitor import MonitoredSource
from data_pipelines.shared_memory import check_shared_memory, shared_memory_error
from data_pipelines.sources.audit import Inspection
from data_pipelines.sources.folder import FolderSource
from data_pipelines.sources.persons import PersonSource
from data_pipelines.sources.prepared import PreparedSource
from data_pipelines.synthetic.source import SyntheticSource
from data_pipelines.transforms.pose import PersonCrop
from data_pipelines.transforms.segmentation import RandomScaleCropFlip, padded

# Two threads, two elements ahead: more only holds memory.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
_BUS_ERROR = 7
"""Signal that ends a process which writes to shared memory that is not there."""

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to labeled images."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files that are left out, and what else looks wrong without reading any."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns image `h w 3` uint8 RGB, label `h w` uint8 train ids, index int.

        Image and label are arrays, or what decodes as it is sliced like one.
        """
        ...

    def name(self, index: int) -> str:
        """Returns a name to save results under."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of an image, without decoding it; of a person's, what is cut out."""
        ...

    def inspect(self, index: int) -> Inspection:
        """Returns what the label holds, and what is wrong with the record."""
        ...


def make_source(config: DataConfig, split: str, instances: bool = False) -> Source:
    """Builds the source of a split.

    Args:
        config: the dataset.
        split: `config.train_split`, `config.eval_split`, or for folders any other.
        instances: reads instance ids too, where a prepared dataset has them.

    Raises:
        DataError: the split's files are not there, or scenes have no such split.
    """
    if config.source == "folder":
        return FolderSource(config, split)
    if config.source == "tfds":
        if config.keypoints is not None:
            return PersonSource(config, split)
        return PreparedSource(config, split, instances)
    sizes = {config.eval_split: config.eval_size, config.train_split: config.train_size}
    if split not in sizes:
        raise DataError(f"Scenes have no split {split!r}; use {' or '.join(sizes)}.")
    return SyntheticSource(split, sizes[split], config.image_size)


def train_batches(
    config: DataConfig,
    source: Source,
    batch_size: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "TrainBatches":
    """Batches of augmented images, for ever.

    An epoch is `len(source) // batch_size` batches: its last images, too few for a batch, are
    left out, different ones each epoch. Slicing by host comes last: the hosts' batches, one behind
    the other, are the batch of a single host.

    Args:
        config: the augmentation and the number of worker processes.
        source: the images.
        batch_size: over all hosts.
        seed: of the order and the augmentation, 0 .. 2**32 - 1.
        shard_index: this host's number.
        shard_count: how many hosts there are.

    Returns:
        An iterator of dicts, b = batch_size // shard_count: image uint8 `b h w 3`, label uint8
        `b h w`, size int32 `b 2` (rows and columns inside the image), index int32 `b`. Of
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
            f"Batch size {batch_size} is larger than the training set of {len(source)} images;"
            " use a smaller batch or more images."
        )
    height, width = config.crop
    batch = batch_size // shard_count
    check_shared_memory(config.workers, 4 * height * width * batch)  # RGB and a label
    watched = MonitoredSource(source)
    images = grain.MapDataset.source(watched).seed(seed).shuffle().random_map(augmentation(config))
    epoch = images[: steps * batch_size].batch(batch)
    batches = epoch.repeat()[shard_index::shard_count]
    return TrainBatches(batches, config.workers, watched.pending_reads)


def augmentation(config: DataConfig) -> RandomScaleCropFlip | PersonCrop:
    """Returns the random transform that the settings describe."""
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
        pending_reads: tells what is being read.
    """

    def __init__(
        self,
        batches: grain.MapDataset[Batch],
        workers: int,
        pending_reads: Callable[[], str] = lambda: "",
    ) -> None:
        self._batches, self._workers, self._pending_reads = batches, workers, pending_reads
        self._taken = 0
        self._iterator: grain.DatasetIterator[Batch] | None = None

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        try:
            if self._iterator is None:
                self._iterator = self._start()
            batch = next(self._iterator)
        except OSError as error:
            # Semaphores and arrays both lie in shared memory.
            if not self._workers or error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            raise shared_memory_error(str(error.strerror)) from None
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # grain has no error of its own
                raise
            reason = str(error).split(". ")[0]
            if f"exit code -{_BUS_ERROR}" in reason:
                raise shared_memory_error(reason) from None
            raise DataError(
                f"The input stopped: {reason}. If nobody ended the process, the machine lacked"
                " memory for it: use fewer workers. The same command goes on with the run."
            ) from None
        self._taken += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns where the iterator stands, as plain values."""
        return {"batches": self._taken}

    def pending_reads(self) -> str:
        """Returns which images are being read now, and for how long; "" if none is."""
        return self._pending_reads()

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
            dataset = dataset.mp_prefetch(options, worker_init_fn=_follow_main_process)
        return iter(dataset)


def _follow_main_process(index: int, count: int) -> None:
    """Makes a worker process end when the main one does, and not before.

    Ctrl-C, which reaches every process of a terminal, is left to the main process. That one may be
    killed without a chance to end its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(main: Any) -> None:
    main.join()
    os._exit(1)


class EvalBatches:
    """Batches of whole images, every image of the source once over all shards.

    Images of one bucket share a batch, in the top left corner of its padded shape, or are padded
    to one of a few shapes chosen for little padding (`data_pipelines.buckets`). The images' sizes
    alone decide the order: all shards go through the same number of batches, of the same shapes. A
    batch that lacks images repeats its last one with mask False. Batches are read ahead; each
    iteration starts from the beginning.

    Args:
        config: the ignore label, and how persons are cut out.
        source: the images.
        batch_size: images in a batch of this shard.
        shard_index: this shard's number.
        shard_count: how many shards there are.
        max_padded_shapes: how many shapes of batches there may be; 0: as many as buckets.
        bucket: returns the bucket of an image of a size (h, w); images of one size by default.

    Attributes:
        sizes: the different (h, w) of images by their padded shape.

    Raises:
        DataError: an impossible batch size or shard, or an image whose size cannot be read. While
            iterating: whatever the source finds wrong with a file.
    """

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        batch_size: int,
        shard_index: int = 0,
        shard_count: int = 1,
        max_padded_shapes: int = 0,
        bucket: Callable[[Size], Bucket] = lambda size: (size,),
    ) -> None:
        _check_shard(shard_index, shard_count)
        if batch_size < 1:
            raise DataError(f"Batch size {batch_size} is not positive; use at least 1.")
        with ThreadPoolExecutor(4) as pool:
            sizes = list(pool.map(source.size, range(len(source))))
        if max_padded_shapes:
            padded_shapes = choose_padded_shapes(sizes, max_padded_shapes)

            def bucket(size: Size) -> Bucket:
                return (size if size in padded_shapes else padded_shape_of(size, padded_shapes),)

        buckets = {size: bucket(size) for size in set(sizes)}
        plan = plan_batches([buckets[size] for size in sizes], batch_size * shard_count)
        self.sizes: dict[Size, set[Size]] = {}
        for padded_shape, indices in plan:
            self.sizes.setdefault(padded_shape, set()).update(sizes[index] for index in indices)
        places = [
            _Place(padded_shape, indices[min(row, len(indices) - 1)], row < len(indices))
            for padded_shape, indices in plan
            for row in range(shard_index, batch_size * shard_count, shard_count)
        ]
        images = grain.MapDataset.source(_Laid(config, source, places))
        self._batches = images.batch(batch_size)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yields dicts.

        Of images: image uint8 `b h w 3`, 0 beside the image; label uint8 `b h w`, ignored
        there; size int32 `b 2`, rows and columns that are image; index int32 `b`; mask bool `b`,
        True for the images to count; instance uint16 `b h w` if the source reads it. Of persons:
        what `PersonCrop` returns, and mask.
        """
        return iter(self._batches.to_iter_dataset(_READ))


@dataclass(frozen=True)
class _Place:
    padded_shape: Size
    index: int
    counts: bool


@dataclass(frozen=True)
class _Laid:
    """Images of a source, laid on padded shapes in the order of the places."""

    config: DataConfig
    source: Source
    places: list[_Place]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = self.places[number]
        element = self.source[place.index]
        if isinstance(self.source, PersonSource):
            assert self.config.keypoints is not None
            crop = PersonCrop(crop=self.config.crop, padding=self.config.keypoints.padding)
            element = crop.random_map(element, np.random.default_rng(0))
        else:
            image, label = np.asarray(element["image"]), np.asarray(element["label"])
            more = {
                name: padded(element[name], place.padded_shape, 0).astype(np.uint16)
                for name in ("instance",)
                if name in element
            }
            element = more | {
                "image": padded(image, place.padded_shape, 0),
                "label": padded(label, place.padded_shape, self.config.ignore_label),
                "size": np.array(label.shape, np.int32),
                "index": np.int32(place.index),
            }
        return element | {"mask": np.bool_(place.counts)}


def _check_shard(shard_index: int, shard_count: int) -> None:
    if not 0 <= shard_index < shard_count:
        raise DataError(f"There is no shard {shard_index} of {shard_count}; count from 0.")
