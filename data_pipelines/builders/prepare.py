"""Writes a prepared dataset: ArrayRecord files with the metadata of tensorflow-datasets.

Each file is written under a temporary name and renamed when complete; the folder is renamed when
all files are in it. After an interruption the next call continues with the first missing file.
"""

import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from data_pipelines.builders.builder import Builder, Example, Item
from data_pipelines.errors import DataError
from data_pipelines.files.archives import SCRATCH_PREFIX, Downloads
from data_pipelines.files.disk import first_few
from data_pipelines.files.json import read_json
from data_pipelines.files.working_folder import INCOMPLETE_SUFFIX, LOCK, RESUME, disk_errors, locked
from data_pipelines.sources.prepared import MANIFEST, check_tiles
from data_pipelines.sources.size_index import Size, format_index, index_path, stored_size
from gsto_jax.files import to_unicode

VERSION = "1.0.0"


def prepare(
    builder: Builder,
    source: Path,
    root: Path,
    *,
    storage: str = "files",
    partial: bool = False,
    threads: int = 2,
    on_progress: Callable[[str, int, int], None] = lambda split, done, total: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Path:
    """Builds a dataset from its downloads.

    Args:
      builder: the dataset's builder.
      source: folder of the downloads.
      root: folder of the prepared datasets; this one becomes `root/NAME/VERSION`.
      storage: see `data_pipelines.config.STORAGES`.
      partial: accepts another number of examples than published.
      threads: number of records made in parallel.
      on_progress: called with a split, the number of finished records and of all.
      on_note: called with messages about the downloads and about an existing dataset.

    Returns:
      The dataset's folder. An existing one is kept, and nothing is read.

    Raises:
      DataError: wrong downloads, an invalid record, an existing dataset that differs, or a full
        disk.
    """
    if storage not in builder.storages:
        raise DataError(
            f"storage must be {' or '.join(builder.storages)} for {builder.name}; got {storage!r}."
        )
    if to_unicode(str(root)) != str(root):
        raise DataError(f"root must be a UTF-8 path; got {str(root)!r}.")
    final = root / builder.name / VERSION
    if final.is_dir():
        on_note(_check_existing(builder, final, source, storage, partial))
        return final
    work = final.with_name(f"{VERSION}{INCOMPLETE_SUFFIX}")
    with disk_errors(root):
        work.mkdir(parents=True, exist_ok=True)
        with locked(work):
            for folder in work.glob(f"{SCRATCH_PREFIX}*"):  # left by a process that was killed
                shutil.rmtree(folder)
            # Scratch space is here, since the system's temporary folder may be small.
            with Downloads(source, work) as downloads, ThreadPoolExecutor(threads) as pool:
                items = _find_items(builder, downloads, partial)
                for note in downloads.notes:
                    on_note(note)
                _remove_stale_files(work, builder, items, storage, source)
                writer = _ShardWriter(work, builder, downloads, storage, pool, on_progress)
                for split, split_items in items.items():
                    writer.write_split(split, split_items)
            _write_metadata(work, builder, items, storage)
            os.rename(work, final)
    return final


def split_into_shards(count: int, size: int) -> list[range]:
    """Splits record indices into shards of at most `size` records."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def shard_path(folder: Path, name: str, split: str, index: int, count: int) -> Path:
    """Returns the path of a shard as tensorflow-datasets names it."""
    return folder / f"{name}-{split}.array_record-{index:05d}-of-{count:05d}"


def _find_items(builder: Builder, downloads: Downloads, partial: bool) -> dict[str, list[Item]]:
    """Returns the items of each split, with their names and numbers checked."""
    try:
        items = builder.items(downloads)
        for split, split_items in items.items():
            if not split_items:
                raise DataError(f"{downloads.source} has no record of {split}.")
            name, count = Counter(item.name for item in split_items).most_common(1)[0]
            if count > 1:
                raise DataError(f"{downloads.source} has {name} of {split} twice; keep one copy.")
            if invalid := [x.name for x in split_items if to_unicode(x.name) != x.name]:
                raise DataError(
                    f"{downloads.source} has {len(invalid)} records whose names are not UTF-8:"
                    f" {first_few([*map(repr, invalid)])}. Rename their files."
                )
        counts = {split: builder.count(split_items) for split, split_items in items.items()}
        if not partial and (differences := builder.describe_incomplete(counts)):
            raise DataError(
                f"{downloads.source} is not all of {builder.name}: {differences}. Complete the"
                " download, or pass --partial to build the records that are present."
            )
        return items
    except DataError as error:
        if downloads.broken:  # the missing files may be in there
            raise DataError(downloads.broken[0]) from error
        raise


def _check_existing(
    builder: Builder, final: Path, source: Path, storage: str, partial: bool
) -> str:
    """Describes an existing dataset. Raises DataError if it is not the one to build."""
    remedy = "use another --config.data.root, or remove it to rebuild it"
    try:
        manifest = read_json((final / MANIFEST).read_text(), final / MANIFEST)
        existing_storage, counts = manifest["storage"], dict(manifest["counts"])
        shared_metadata = dict(manifest["shared_metadata"])
        existing_source = str(manifest["source"])
    except (OSError, ValueError, LookupError, TypeError):
        raise DataError(
            f"{final} was not built by --mode=prepare of this version: {remedy}."
        ) from None
    if existing_storage != storage:
        raise DataError(
            f"{final} contains the dataset with storage {existing_storage!r}: {remedy}."
        )
    check_tiles(final, builder.decode_options)
    if not partial and (differences := builder.describe_incomplete(counts)):
        raise DataError(
            f"{final} is not all of {builder.name}: {differences}. It was built with --partial:"
            f" {remedy}."
        )
    if conflict := builder.describe_conflict(shared_metadata):
        raise DataError(f"{final} contains {conflict}: {remedy}.")
    listed = ", ".join(f"{split} {count}" for split, count in counts.items())
    return (
        f"{final} is kept as it was built from {existing_source} ({listed} {builder.unit}): nothing"
        f" was read from {source.absolute()}. To build it from there, remove that folder or give"
        " another --config.data.root"
    )


def _remove_stale_files(
    work: Path, builder: Builder, items: dict[str, list[Item]], storage: str, source: Path
) -> None:
    """Empties the working folder unless its files were made from the same items and options."""
    manifest = {
        "source": str(source.absolute()),
        "storage": storage,
        "decode_options": asdict(builder.decode_options) if storage == "tiles" else None,
        "orientation": builder.decode_options.orientation,
        "shard_size": builder.shard_size,
        "counts": {split: builder.count(split_items) for split, split_items in items.items()},
        "splits": {
            split: [
                len(split_items),
                zlib.crc32("\n".join(map(builder.fingerprint, split_items)).encode()),
            ]
            for split, split_items in items.items()
        },
        "shared_metadata": builder.shared_metadata(items),
    }
    path = work / MANIFEST
    with suppress(OSError, ValueError):
        if read_json(path.read_text(), path) == manifest:
            return
    for stale in work.iterdir():
        if stale.name != LOCK and not stale.name.startswith(SCRATCH_PREFIX):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    _write_text(path, json.dumps(manifest))


@dataclass(frozen=True)
class _ShardWriter:
    """Writes the shards of a dataset."""

    work: Path
    builder: Builder
    downloads: Downloads
    storage: str
    pool: ThreadPoolExecutor
    on_progress: Callable[[str, int, int], None]

    def write_split(self, split: str, items: Sequence[Item]) -> None:
        """Writes the missing shards of a split, and the index of its image sizes."""
        shards = split_into_shards(len(items), self.builder.shard_size)
        index = index_path(self.work, split)
        parts = [index_path(self.work, f"{split}-{n:05d}") for n in range(len(shards))]
        for n, (shard, part) in enumerate(zip(shards, parts, strict=True)):
            self.on_progress(split, shard.start, len(items))
            path = shard_path(self.work, self.builder.name, split, n, len(shards))
            if not (path.exists() and (part.exists() or index.exists())):
                sizes = self._write_records(_temporary(path), split, items, shard)
                _write_text(part, json.dumps(sizes))  # first: the name of a shard says it is done
                os.rename(_temporary(path), path)
        if not index.exists():
            sizes = [size for part in parts for size in json.loads(part.read_text())]
            _write_text(index, format_index(sizes, self.builder.decode_options))
        for part in parts:
            part.unlink(missing_ok=True)
        self.on_progress(split, len(items), len(items))

    def _write_records(
        self, path: Path, split: str, items: Sequence[Item], shard: range
    ) -> list[Size]:
        """Writes the records of a shard to a file; returns the sizes of their images."""
        features = _tfds_features(self.builder.features(self.storage))
        futures = [self.pool.submit(self._make_example, items[index]) for index in shard]
        sizes = []
        # Images are compressed already, and records are read one by one.
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        try:
            for index in shard:
                example = futures.pop(0).result()
                sizes.append(
                    stored_size(example["image"], items[index].image, self.builder.decode_options)
                )
                with _writer_errors(path, items[index]):
                    writer.write(features.serialize_example(example))
                self.on_progress(split, index + 1, len(items))
            with _writer_errors(path, items[shard[-1]]):
                writer.close()
        finally:
            for future in futures:
                future.cancel()
            if writer.is_open():
                with suppress(RuntimeError, ValueError):
                    writer.close()
        reader = array_record_module.ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
        if count != len(shard):
            raise DataError(f"{path} contains {count} of {len(shard)} records; prepare again.")
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return sizes

    def _make_example(self, item: Item) -> Example:
        return self.builder.example(self.downloads, item, self.storage)


@contextmanager
def _writer_errors(path: Path, item: Item) -> Iterator[None]:
    """Converts errors of the ArrayRecord writer into a DataError that names the record."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"Cannot write record {item.name} to {path} ({error}): if the disk is full, {RESUME}."
        ) from None


def _write_metadata(
    work: Path, builder: Builder, items: dict[str, list[Item]], storage: str
) -> None:
    """Writes the metadata of tensorflow-datasets, the records' names and the side files."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming, splits

    template = naming.ShardedFileTemplate(
        data_dir=work,
        dataset_name=builder.name,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    infos = []
    for split, split_items in items.items():
        shards = split_into_shards(len(split_items), builder.shard_size)
        paths = [shard_path(work, builder.name, split, n, len(shards)) for n in range(len(shards))]
        infos.append(
            splits.SplitInfo(
                name=split,
                shard_lengths=[len(shard) for shard in shards],
                num_bytes=sum(path.stat().st_size for path in paths),
                filename_template=template.replace(split=split),
            )
        )
        names = "".join(f"{item.name}\n" for item in split_items)
        _write_text(work / f"names-{split}.txt", names)
    for name, text in builder.side_files(items).items():
        _write_text(work / name, text)
    tfds.folder_dataset.write_metadata(
        data_dir=work,
        features=_tfds_features(builder.features(storage)),
        split_infos=infos,
        filename_template=template,
        check_data=False,
        description=f"{builder.name}, prepared by gsto_jax with storage {storage!r}",
        homepage=builder.homepage,
    )


def _tfds_features(types: dict[str, str]) -> Any:
    import tensorflow_datasets as tfds

    image = tfds.features.Image
    constructors = {
        "text": tfds.features.Text,
        "bytes": tfds.features.Text,
        "int": lambda: tfds.features.Scalar(np.int64),
        "png": lambda: image(encoding_format="png"),
        "jpeg": lambda: image(encoding_format="jpeg"),
        "label": lambda: image(shape=(None, None, 1), encoding_format="png"),
        "instance": lambda: image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"),
    }
    return tfds.features.FeaturesDict({name: constructors[kind]() for name, kind in types.items()})


def _temporary(path: Path) -> Path:
    """Returns the name of a file that is not complete."""
    return path.with_name(f"{path.name}.partial")


def _write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, and makes sure that it is on the disk."""
    temporary = _temporary(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
