"""Builds batches from a source: shuffling, augmentation, splitting over hosts, padding."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from data_pipelines.buckets import Bucket, Size, choose_padded_shapes, padded_shape_of, plan_batches
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.retry import bucket_errors
from data_pipelines.monitor import MonitoredSource
from data_pipelines.shared_memory import check_shared_memory, fitting_workers
from data_pipelines.sources.class_images import ClassFolderSource, ClassImages, ClassRecordSource
from data_pipelines.sources.folder import FolderSource
from data_pipelines.sources.persons import PersonSource
from data_pipelines.sources.prepared import PreparedSource
from data_pipelines.sources.source import Source
from data_pipelines.synthetic.source import SyntheticSource
from data_pipelines.transforms.classification import CenterCrop, RandomResizedCrop
from data_pipelines.transforms.pose import PersonCrop
from data_pipelines.transforms.segmentation import RandomScaleCropFlip, pad
from data_pipelines.workers import start_reading, worker_errors

_EVAL_IMAGES_PER_WORKER = 64
"""Evaluation images for which the start of a worker process, of some seconds, is worthwhile."""

Batch = dict[str, np.ndarray]


def make_source(config: DataConfig, split: str, instances: bool = False) -> Source:
    """Builds the source of a split.

    Args:
      config: the dataset.
      split: `config.train_split`, `config.eval_split`, or any other except for synthetic scenes.
      instances: reads instance ids too if a prepared dataset has them.

    Raises:
      DataError: the files are missing or invalid, or there is no such split.
    """
    with bucket_errors(config.root):
        if config.source == "folder":
            return FolderSource(config, split)
        if config.source == "class_folders":
            return ClassFolderSource(config, split)
        if config.source == "class_records":
            return ClassRecordSource(config, split)
        if config.source == "tfds":
            if config.keypoints is not None:
                return PersonSource(config, split)
            return PreparedSource(config, split, instances)
    sizes = {config.eval_split: config.eval_size, config.train_split: config.train_size}
    if split not in sizes:
        raise DataError(f"split must be {' or '.join(sizes)} for scenes; got {split!r}.")
    return SyntheticSource(split, sizes[split], config.image_size)


def train_batches(
    config: DataConfig,
    source: Source,
    batch_size: int,
    *,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "TrainBatches":
    """Returns endless shuffled batches of augmented examples.

    An epoch has `len(source) // batch_size` batches; the examples left over differ between epochs.
    Splitting over hosts comes last: the batches of all hosts, concatenated, are the batch of a
    single host.

    Args:
      config: the augmentation, and the number of worker processes ("auto": 0; `main.py` replaces
        it by the result of `auto_workers`).
      source: the examples.
      batch_size: batch size over all hosts.
      seed: seed of order and augmentation, 0 .. 2**32 - 1.
      shard_index: index of this host.
      shard_count: number of hosts.

    Returns:
      An iterator of dicts, b = batch_size // shard_count: image uint8 `b h w c`, label uint8
      `b h w`, size int32 `b 2` (rows and columns inside the image), index int32 `b`,
      augment_seed uint32 `b`; of persons see `PersonCrop.random_map`, of images with a class each
      `RandomResizedCrop.random_map`.

    Raises:
      DataError: the batch size exceeds the source or is no multiple of the hosts. While iterating:
        a file is invalid.
    """
    _check_shard(shard_index, shard_count)
    if batch_size < 1 or batch_size % shard_count:
        raise DataError(
            f"Batch size must be a positive multiple of the {shard_count} hosts; got {batch_size}."
        )
    steps = len(source) // batch_size
    if not steps:
        raise DataError(
            f"Batch size must be at most the {len(source)} training images; got {batch_size}. Use a"
            " smaller batch or more images."
        )
    batch = batch_size // shard_count
    workers = _num_workers(config)
    check_shared_memory(workers, train_batch_bytes(config, batch))
    monitored = MonitoredSource(source)
    examples = grain.MapDataset.source(monitored).seed(seed).shuffle()
    augmented = examples.random_map(augmentation(config))
    epoch = augmented[: steps * batch_size].batch(batch)
    batches = epoch.repeat()[shard_index::shard_count]
    return TrainBatches(batches, workers, monitored.pending_reads)


def train_batch_bytes(config: DataConfig, batch_size: int) -> int:
    """Returns the size of a training batch in bytes: image and label."""
    height, width = config.crop
    return (config.channels + 1) * height * width * batch_size


def _num_workers(config: DataConfig) -> int:
    """Returns the number of worker processes; "auto" starts none in a program other than main.py.

    Worker processes import the main program, which only some programs are written for.
    """
    return config.workers if isinstance(config.workers, int) else 0


def augmentation(config: DataConfig) -> RandomScaleCropFlip | PersonCrop | RandomResizedCrop:
    """Returns the random transform of training examples."""
    if config.is_classification:
        crops = config.image_crops
        return RandomResizedCrop(
            crop=config.crop, area=crops.area, aspect=crops.aspect, flip=config.flip
        )
    if config.keypoints is not None:
        keypoints = config.keypoints
        return PersonCrop(
            crop=config.crop,
            padding=keypoints.padding,
            rotation=keypoints.rotation,
            scale=keypoints.scale,
            distribution=keypoints.distribution,
            flip=config.flip,
            flip_pairs=keypoints.flip_pairs,
            half_body=keypoints.half_body,
            upper_body=keypoints.upper_body,
            lower_body=keypoints.lower_body,
            udp=keypoints.udp,
        )
    return RandomScaleCropFlip(
        crop=config.crop,
        base_size=config.base_size,
        scale_min=config.scale_min,
        scale_step=config.scale_step,
        num_scales=config.num_scales,
        fixed_size=config.fixed_size,
        flip=config.flip,
        rotation=config.rotation,
        flip_pairs=config.flip_pairs,
        ignore_label=config.ignore_label,
    )


class TrainBatches:
    """An endless iterator over batches that can be resumed exactly.

    Its state is the number of batches returned, so a run may resume with another number of hosts or
    worker processes.

    Args:
      batches: the batches of this host.
      workers: number of worker processes; 0: threads of this process.
      pending_reads: describes the reads in progress.
    """

    def __init__(
        self,
        batches: grain.MapDataset[Batch],
        workers: int,
        pending_reads: Callable[[], str] = lambda: "",
    ) -> None:
        self._batches, self._workers, self._pending_reads = batches, workers, pending_reads
        self._num_returned = 0
        self._iterator: grain.DatasetIterator[Batch] | None = None

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        with worker_errors(self._workers):
            if self._iterator is None:
                self._iterator = self._start()
            batch = next(self._iterator)
        self._num_returned += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position of the iterator as plain values."""
        return {"batches": self._num_returned}

    def set_state(self, state: dict[str, int]) -> None:
        """Moves the iterator to the position of `get_state`."""
        self.close()
        self._num_returned = state["batches"]

    def pending_reads(self) -> str:
        """Describes the reads in progress and their duration; "" if there is none."""
        return self._pending_reads()

    def close(self) -> None:
        """Ends the worker processes; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _start(self) -> grain.DatasetIterator[Batch]:
        return start_reading(self._batches[self._num_returned :], self._workers)


class EvalBatches:
    """Batches of padded images that cover a source once, over all shards.

    Images of one bucket share a batch, in the top left corner of its padded shape. The order
    follows from the images' sizes alone, so all shards have batches of the same shapes. The last
    batch of a bucket is filled with copies of its last image whose mask is False. Batches are read
    ahead, by worker processes if there are many images; each iteration starts from the beginning.

    Args:
      config: the ignore label, how persons are cropped, and the maximum number of worker processes.
      source: the examples.
      batch_size: batch size of this shard.
      shard_index: index of this shard.
      shard_count: number of shards.
      max_padded_shapes: maximum number of padded shapes, chosen for little padding (see
        `data_pipelines.buckets`); 0: see bucket.
      bucket: returns the bucket of an image of size (h, w); by default one bucket per size.

    Attributes:
      sizes: the different (h, w) of images per padded shape.
      workers: number of worker processes; 0: threads of this process.

    Raises:
      DataError: an invalid batch size or shard, or an image whose size cannot be read. While
        iterating: a file is invalid.
    """

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        batch_size: int,
        *,
        shard_index: int = 0,
        shard_count: int = 1,
        max_padded_shapes: int = 0,
        bucket: Callable[[Size], Bucket] = lambda size: (size,),
    ) -> None:
        _check_shard(shard_index, shard_count)
        if batch_size < 1:
            raise DataError(f"Batch size must be at least 1; got {batch_size}.")
        with ThreadPoolExecutor(4) as pool:
            sizes = list(pool.map(source.size, range(len(source))))
        if max_padded_shapes:
            padded_shapes = choose_padded_shapes(sizes, max_padded_shapes)

            def bucket(size: Size) -> Bucket:
                return (size if size in padded_shapes else padded_shape_of(size, padded_shapes),)

        buckets = {size: bucket(size) for size in set(sizes)}
        global_batch_size = batch_size * shard_count
        plan = plan_batches([buckets[size] for size in sizes], global_batch_size)
        self.sizes: dict[Size, set[Size]] = {}
        for padded_shape, indices in plan:
            self.sizes.setdefault(padded_shape, set()).update(sizes[index] for index in indices)
        slots = [
            _Slot(padded_shape, indices[min(row, len(indices) - 1)], row < len(indices))
            for padded_shape, indices in plan
            for row in range(shard_index, global_batch_size, shard_count)
        ]
        examples = grain.MapDataset.source(_PaddedExamples(config, source, slots))
        self._batches = examples.batch(batch_size)
        largest = max((height * width for height, width in self.sizes), default=1)
        batch_bytes = (config.channels + 3) * largest * batch_size  # image, label, instance ids
        workers = min(_num_workers(config), len(slots) // _EVAL_IMAGES_PER_WORKER)
        workers = min(workers, fitting_workers(batch_bytes))
        self.workers = workers if workers > 1 else 0  # a single one is no faster than threads

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yields dicts.

        Of images: image uint8 `b h w c`, 0 outside the image; label uint8 `b h w`, ignored outside;
        size int32 `b 2`, rows and columns inside the image; index int32 `b`; mask bool `b`, False
        for copies that fill the batch; instance uint16 `b h w` if the source reads it. Of persons:
        see `PersonCrop.random_map`, and mask. Of images with a class each: image, label int32 `b`,
        index and mask.
        """
        with worker_errors(self.workers):
            iterator = start_reading(self._batches, self.workers)
            try:
                yield from iterator
            finally:
                iterator.close()


@dataclass(frozen=True)
class _Slot:
    """A row of a batch: the image that fills it, and whether it counts."""

    padded_shape: Size
    index: int
    mask: bool


@dataclass(frozen=True)
class _PaddedExamples:
    """The examples of a source, padded, in the order of the slots."""

    config: DataConfig
    source: Source
    slots: list[_Slot]

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, position: int) -> dict[str, Any]:
        slot = self.slots[position]
        example = self.source[slot.index]
        if isinstance(self.source, PersonSource):
            keypoints = self.config.keypoints
            assert keypoints is not None
            crop = PersonCrop(crop=self.config.crop, padding=keypoints.padding, udp=keypoints.udp)
            example = crop.random_map(example, np.random.default_rng(0))
        elif isinstance(self.source, ClassImages):
            center = CenterCrop(crop=self.config.crop, fraction=self.config.image_crops.center)
            example = center.map(example)
        else:
            label = np.asarray(example["label"])
            padded: dict[str, Any] = {
                "image": pad(np.asarray(example["image"]), slot.padded_shape, 0),
                "label": pad(label, slot.padded_shape, self.config.ignore_label),
                "size": np.array(label.shape, np.int32),
                "index": np.int32(slot.index),
            }
            if "instance" in example:
                padded["instance"] = pad(example["instance"], slot.padded_shape, 0)
                padded["instance"] = padded["instance"].astype(np.uint16)
            example = padded
        return example | {"mask": np.bool_(slot.mask)}


def _check_shard(shard_index: int, shard_count: int) -> None:
    if not 0 <= shard_index < shard_count:
        raise DataError(f"Shard index must be in 0..{shard_count - 1}; got {shard_index}.")
