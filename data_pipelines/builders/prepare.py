"""Writes a dataset once: ArrayRecord files, and what tensorflow-datasets needs to read them.

A file is written beside its place and moved there when it is whole; the folder gets its name when
all files are in it. So whatever ends the program, what has the final name is complete, and the next
call goes on with the first file that is missing.
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
from data_pipelines.files.json import read_json
from data_pipelines.sources.prepared import INCOMPLETE_SUFFIX, PLAN, check_tiles
from gsto_jax.files import is_disk_full, to_unicode

VERSION = "1.0.0"
_LOCK = ".lock"


def prepare(
    builder: Builder,
    source: Path,
    root: Path,
    storage: str = "files",
    partial: bool = False,
    threads: int = 2,
    on_split: Callable[[str, int, int], None] = lambda split, done, total: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Path:
    """Turns downloads into a dataset.

    Args:
        builder: of the dataset.
        source: folder of the downloads.
        root: where datasets lie; this one becomes `root/NAME/VERSION`.
        storage: "files" keeps the bytes of image files; "tiles" stores images so that a crop
            decodes quickly.
        partial: accepts another number of records than the published one.
        threads: how many records are made at once.
        on_split: called with a split, the records done and their number, from time to time.
        on_note: called with what people should know of the downloads, and of a folder that is kept.

    Returns:
        The folder. One that is complete already is left as it is, and nothing is read.

    Raises:
        DataError: a wrong folder, a wrong record, another storage than what is there, or a disk
            that is full; says what to do.
    """
    if storage not in builder.storages:
        raise DataError(
            f"storage is {storage!r}; {builder.name} takes {' or '.join(builder.storages)}."
        )
    if to_unicode(str(root)) != str(root):
        raise DataError(f"root is {str(root)!r}, which is not UTF-8; give another one.")
    final = root / builder.name / VERSION
    if final.is_dir():
        on_note(_keep_existing(builder, final, source, storage, partial))
        return final
    work = final.with_name(f"{VERSION}{INCOMPLETE_SUFFIX}")
    with _writing_below(root):
        work.mkdir(parents=True, exist_ok=True)
        with _held(work):
            for left in work.glob(f"{SCRATCH_PREFIX}*"):  # by a process that was killed
                shutil.rmtree(left)
            # Scratch goes here, since the system's place for temporary files may be small.
            with Downloads(source, work) as downloads, ThreadPoolExecutor(threads) as pool:
                items = _items(builder, downloads, partial)
                for note in downloads.notes:
                    on_note(note)
                _keep_what_fits(work, builder, items, storage, source)
                build = _Build(work, builder, downloads, storage, pool, on_split)
                for split, records in items.items():
                    build.write(split, records)
            _write_metadata(work, builder, items, storage)
            os.rename(work, final)
    return final


@contextmanager
def _writing_below(root: Path) -> Iterator[None]:
    """Converts errors of the disk into a DataError."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DataError(
                f"The disk of {root} is full ({error.strerror}): make room and give the same"
                " command again, which goes on where this one ended."
            ) from None
        raise DataError(f"Cannot write {error.filename or root}: {error.strerror}.") from None


def shards(count: int, size: int) -> list[range]:
    """Splits so many records into files of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def shard_path(folder: Path, name: str, split: str, number: int, count: int) -> Path:
    """Returns the place of a file, as tensorflow-datasets names it."""
    return folder / f"{name}-{split}.array_record-{number:05d}-of-{count:05d}"


def _items(builder: Builder, downloads: Downloads, partial: bool) -> dict[str, list[Item]]:
    """The records of each split, counted."""
    try:
        items = builder.items(downloads)
        for split, records in items.items():
            if not records:
                raise DataError(f"{downloads.source} has no record of {split}.")
            name, count = Counter(item.name for item in records).most_common(1)[0]
            if count > 1:
                raise DataError(f"{downloads.source} has {name} of {split} twice; give one copy.")
            if odd := [item.name for item in records if to_unicode(item.name) != item.name]:
                raise DataError(
                    f"{downloads.source} has {len(odd)} records whose names are not UTF-8, such as"
                    f" {odd[0]!r}; rename their files."
                )
        found = {split: builder.count(records) for split, records in items.items()}
        if not partial and (wrong := _wrong_counts(builder, found)):
            raise DataError(
                f"{downloads.source} is not all of {builder.name}: {wrong}. Complete the download,"
                " or give --partial to build what is there."
            )
        return items
    except DataError as error:
        if downloads.broken:  # what is missing may be in there
            raise DataError(downloads.broken[0]) from error
        raise


def _wrong_counts(builder: Builder, found: dict[str, int]) -> str:
    """Where the numbers differ from the published ones, in words; "" where they are equal."""
    wrong = [
        f"{split} has {found.get(split, 0)} of {count}"
        for split, count in builder.counts.items()
        if found.get(split, 0) != count
    ]
    return f"{'; '.join(wrong)} {builder.counted}" if wrong else ""


def _keep_existing(builder: Builder, final: Path, source: Path, storage: str, partial: bool) -> str:
    """Returns what a finished dataset holds, in words. Raises DataError if it does not fit."""
    remedy = "give another --config.data.root, or remove it to build it anew"
    try:
        plan = read_json((final / PLAN).read_text(), final / PLAN)
        there, found = plan["storage"], dict(plan["counts"])
        shared_metadata, built_from = dict(plan["shared_metadata"]), str(plan["source"])
    except (OSError, ValueError, LookupError, TypeError):
        raise DataError(
            f"{final} was not made by this version's --mode=prepare: {remedy}."
        ) from None
    if there != storage:
        raise DataError(f"{final} holds the dataset with storage {there!r}: {remedy}.")
    check_tiles(final, builder.rule)
    if not partial and (wrong := _wrong_counts(builder, found)):
        raise DataError(
            f"{final} is not all of {builder.name}: {wrong}. It was made with --partial: {remedy}."
        )
    if conflict := builder.conflict(shared_metadata):
        raise DataError(f"{final} holds {conflict}: {remedy}.")
    counts = ", ".join(f"{split} {count}" for split, count in found.items())
    return (
        f"{final} is kept as it was built from {built_from} ({counts} {builder.counted}): nothing"
        f" was read from {source.absolute()}. To build it from there, remove that folder or give"
        " another --config.data.root"
    )


def _remove_if_nothing_was_made(work: Path) -> None:
    """Removes the working folder that holds no file of the dataset, and its empty parent."""
    with suppress(OSError):
        if {path.name for path in work.iterdir()} <= {_LOCK}:
            shutil.rmtree(work)
            work.parent.rmdir()


@contextmanager
def _held(work: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:
        raise DataError(
            "Datasets are prepared on Linux or macOS: this system has no file locks (fcntl)."
        ) from None
    with (work / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"Another process is preparing {work}; wait for it.") from None
        try:
            yield
        finally:
            _remove_if_nothing_was_made(work)


def _keep_what_fits(
    work: Path, builder: Builder, items: dict[str, list[Item]], storage: str, source: Path
) -> None:
    """Empties the folder, unless what is in it was begun from the same records."""
    plan = {
        "source": str(source.absolute()),
        "storage": storage,
        "decode_options": asdict(builder.rule) if storage == "tiles" else None,
        "shard_size": builder.shard_size,
        "counts": {split: builder.count(records) for split, records in items.items()},
        "splits": {
            split: [len(records), zlib.crc32("\n".join(map(builder.content, records)).encode())]
            for split, records in items.items()
        },
        "shared_metadata": builder.shared_metadata(items),
    }
    path = work / PLAN
    with suppress(OSError, ValueError):
        if read_json(path.read_text(), path) == plan:
            return
    for other in work.iterdir():
        if other.name != _LOCK and not other.name.startswith(SCRATCH_PREFIX):
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    _write_text(path, json.dumps(plan))


@dataclass(frozen=True)
class _Build:
    """Writes the files of one dataset."""

    work: Path
    builder: Builder
    downloads: Downloads
    storage: str
    pool: ThreadPoolExecutor
    on_split: Callable[[str, int, int], None]

    def write(self, split: str, items: Sequence[Item]) -> None:
        """Writes the files of a split that are missing."""
        parts = shards(len(items), self.builder.shard_size)
        for number, part in enumerate(parts):
            self.on_split(split, part.start, len(items))
            path = shard_path(self.work, self.builder.name, split, number, len(parts))
            if not path.exists():
                self._write_file(path, split, items, part)
        self.on_split(split, len(items), len(items))

    def _write_file(self, path: Path, split: str, items: Sequence[Item], part: range) -> None:
        features = _features(self.builder.features(self.storage))
        chosen = [items[index] for index in part]
        made = [self.pool.submit(self._example, item) for item in chosen]
        beside = path.with_name(f"{path.name}.partial")
        # Records are compressed already, and read one by one.
        writer = array_record_module.ArrayRecordWriter(str(beside), "group_size:1,uncompressed")
        try:
            for index in part:
                example = made.pop(0).result()
                with _naming(beside, items[index]):
                    writer.write(features.serialize_example(example))
                self.on_split(split, index + 1, len(items))
            with _naming(beside, chosen[-1]):
                writer.close()
        finally:
            for waiting in made:
                waiting.cancel()
            if writer.is_open():
                with suppress(RuntimeError, ValueError):
                    writer.close()
        reader = array_record_module.ArrayRecordReader(str(beside))
        found = reader.num_records()
        reader.close()
        if found != len(part):
            raise DataError(f"{beside} holds {found} of {len(part)} records; prepare again.")
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.rename(beside, path)

    def _example(self, item: Item) -> Example:
        return self.builder.example(self.downloads, item, self.storage)


@contextmanager
def _naming(path: Path, item: Item) -> Iterator[None]:
    """Turns what the writer complains of into a message that names the record."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"Cannot write record {item.name} to {path} ({error}): if the disk is full, make room"
            " and give the same command again, which goes on where this one ended."
        ) from None


def _write_metadata(
    work: Path, builder: Builder, items: dict[str, list[Item]], storage: str
) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming, splits

    template = naming.ShardedFileTemplate(
        data_dir=work,
        dataset_name=builder.name,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    infos = []
    for split, records in items.items():
        parts = shards(len(records), builder.shard_size)
        paths = [shard_path(work, builder.name, split, n, len(parts)) for n in range(len(parts))]
        infos.append(
            splits.SplitInfo(
                name=split,
                shard_lengths=[len(part) for part in parts],
                num_bytes=sum(path.stat().st_size for path in paths),
                filename_template=template.replace(split=split),
            )
        )
        _write_text(work / f"names-{split}.txt", "".join(f"{item.name}\n" for item in records))
    for name, text in builder.side_files(items).items():
        _write_text(work / name, text)
    tfds.folder_dataset.write_metadata(
        data_dir=work,
        features=_features(builder.features(storage)),
        split_infos=infos,
        filename_template=template,
        check_data=False,
        description=f"{builder.name}, prepared by gsto_jax with storage {storage!r}",
        homepage=builder.homepage,
    )


def _features(kinds: dict[str, str]) -> Any:
    import tensorflow_datasets as tfds

    image = tfds.features.Image
    made = {
        "text": tfds.features.Text,
        "bytes": tfds.features.Text,
        "int": lambda: tfds.features.Scalar(np.int64),
        "png": lambda: image(encoding_format="png"),
        "jpeg": lambda: image(encoding_format="jpeg"),
        "label": lambda: image(shape=(None, None, 1), encoding_format="png"),
        "instance": lambda: image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"),
    }
    return tfds.features.FeaturesDict({name: made[kind]() for name, kind in kinds.items()})


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.partial")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(beside, path)
