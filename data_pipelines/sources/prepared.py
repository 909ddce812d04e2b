"""Reads images and labels of prepared datasets through `tfds.data_source` and decodes them."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.images import decode_image, decode_label, format_size
from data_pipelines.files.json import read_json
from data_pipelines.files.limits import escapes_folder
from data_pipelines.files.retry import read_with_retries
from data_pipelines.files.tiles import Tiles
from data_pipelines.files.working_folder import INCOMPLETE_SUFFIX
from data_pipelines.sources.fraction import own_files_error, split_members
from data_pipelines.sources.image_checks import check_label_size, contrast_warnings, image_warnings
from data_pipelines.sources.label_inspection import inspect_label
from data_pipelines.sources.label_map import LabelMap, MappedLabel
from data_pipelines.sources.size_index import index_path, read_index, stored_size
from data_pipelines.sources.stats import LabelStats, unreadable
from gsto_jax.errors import first_line
from gsto_jax.image_files import Decoded, DecodeOptions
from gsto_jax.storage import error_reason, has_scheme, is_remote, to_path

MANIFEST = "manifest.json"
"""File of a dataset with its source, storage, counts and, for tiles, the decode options."""
PREPARE_AGAIN = "Remove the folder and prepare the dataset again."

# Names that tensorflow-datasets' own builders give to splits and features.
_TFDS_SPLITS = {"val": "validation"}
_TFDS_FEATURES = {"image": "image_left", "label": "segmentation_label"}
_TFDS_CONFIGS = ("", "semantic_segmentation")
_JOINED_SPLITS = {"trainval": ("train", "val"), "trainaug": ("train", "aug")}
_OPTIONAL_FEATURES = ("instance", "height", "width")


@dataclass(frozen=True)
class PreparedRecords:
    """The records of a split of a prepared dataset, or of several splits joined by "+".

    Attributes:
      folder: folder of the dataset.
      names: names of the records; empty if the dataset does not list them.
      records: random access to the records, dictionaries of stored bytes and integers.
      features: stored name of each feature, keyed by its name in this project.
      splits: names of all stored splits of the dataset.
    """

    folder: Path
    names: tuple[str, ...]
    records: Any
    features: dict[str, str]
    splits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a record; images are encoded bytes.

        Raises:
          DataError: the record is damaged.
          IndexError: no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self.describe(index)
        try:
            record = read_with_retries(lambda: self.records[int(index)], name)
        except OSError as error:
            raise DataError(f"Cannot read {name}: {error_reason(error)}.") from None
        except Exception as error:  # reader and parser raise many types
            if is_remote(self.folder):
                raise DataError(
                    f"Cannot read {name} ({first_line(error)}). Check the access to the bucket; if"
                    " the file is damaged, copy the dataset there again."
                ) from None
            raise DataError(f"{name} is damaged ({first_line(error)}). {PREPARE_AGAIN}") from None
        for stored in self.features.values():
            if record.get(stored) is None:
                raise DataError(f"{name} is damaged (it lacks {stored}). {PREPARE_AGAIN}")
        return {feature: record[stored] for feature, stored in self.features.items()}

    def name(self, index: int) -> str:
        """Returns a record's name, or its index if the dataset lists no names."""
        return self.names[index] if self.names else f"{index:06d}"

    def stored_bytes(self, index: int) -> int:
        """Reads a record; returns the size of its bytes and texts."""
        values = self[index].values()
        return sum(len(value) for value in values if isinstance(value, bytes | str))

    def describe(self, index: int) -> str:
        """Returns a record's name with the dataset's folder, for messages."""
        return f"record {self.name(index)} of {self.folder}"


def open_prepared(
    root: str, name: str, split: str, features: Sequence[str], *, source: str = "tfds"
) -> PreparedRecords:
    """Opens a dataset built by `--mode=prepare`, or by tensorflow-datasets as ArrayRecord.

    `split` may join several splits (see `stored_splits`). `_OPTIONAL_FEATURES` may be missing.

    Raises:
      DataError: no such dataset, split or feature, or the dataset is damaged or does not support
        random access; or the root has a scheme that ArrayRecord does not read.
    """
    if has_scheme(root) and not root.startswith("gs://"):
        raise DataError(
            "config.data.root must be a local path or start with gs:// with "
            f"data.source={source!r}, since ArrayRecord reads nothing else; got {root!r}"
        )
    import tensorflow_datasets as tfds

    folder = _find_folder(to_path(root, "config.data.root") / name)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # tfds does not validate its files
        raise _damaged(folder, error) from None
    splits = []
    for part in stored_splits(split):
        stored = part if part in builder.info.splits else _TFDS_SPLITS.get(part, part)
        if stored not in builder.info.splits:
            raise DataError(
                f"{folder} has no split {part!r}; it has {', '.join(sorted(builder.info.splits))}."
            )
        splits.append(stored)
    stored_names = _find_features(builder.info.features, features, folder)
    decoders = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    try:
        records = builder.as_data_source(split="+".join(splits), decoders=decoders)
    except NotImplementedError as error:
        raise DataError(
            f"{folder} must allow random access ({error}). Build it with"
            ' file_format="array_record".'
        ) from None
    except Exception as error:
        raise _damaged(folder, error) from None
    names = _read_names(folder, split)
    if names and len(names) != len(records):
        raise DataError(
            f"{folder} lists {len(names)} names for the {len(records)} records of {split}."
            f" {PREPARE_AGAIN}"
        )
    return PreparedRecords(folder, names, records, stored_names, tuple(builder.info.splits))


def _find_folder(base: Path) -> Path:
    """Returns the folder of the newest version of a dataset."""
    for config in _TFDS_CONFIGS:
        if folder := _newest_version(base / config):
            return folder
    note = " (an incomplete one exists)" if list(base.glob(f"*{INCOMPLETE_SUFFIX}")) else ""
    raise DataError(
        f"There is no dataset {base}{note}. Prepare it once with"
        " --mode=prepare --source=DOWNLOADS and the same --config."
    )


def _newest_version(base: Path) -> Path | None:
    """Returns the folder with the highest version; incomplete ones do not match the pattern."""
    folders = [
        path.parent
        for path in base.glob("*/features.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    return max(folders, key=lambda folder: [*map(int, folder.name.split("."))], default=None)


def _find_features(
    stored: Collection[str], features: Sequence[str], folder: Path
) -> dict[str, str]:
    """Returns the stored name of each feature. Raises DataError if one is missing."""
    names = {
        feature: name
        for feature in features
        for name in (feature, _TFDS_FEATURES.get(feature, feature))
        if name in stored
    }
    if missing := [x for x in features if x not in names and x not in _OPTIONAL_FEATURES]:
        raise DataError(
            f"{folder} has no {' and no '.join(missing)} in its records. If it is the right"
            " dataset, remove the folder and prepare it again."
        )
    return names


def _damaged(folder: Path, error: Exception) -> DataError:
    return DataError(f"{folder} is damaged ({first_line(error)}). {PREPARE_AGAIN}")


def stored_splits(split: str) -> list[str]:
    """Splits "train+val", or its alias "trainval", into the names of stored splits."""
    return [part for name in split.split("+") for part in _JOINED_SPLITS.get(name, (name,))]


def check_tiles(folder: Path, options: DecodeOptions) -> None:
    """Raises DataError if the tiles of a dataset were decoded with other options."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    manifest = read_json(path.read_bytes(), path)
    stored = manifest.get("decode_options") if isinstance(manifest, dict) else None
    current = {name: _plain(value) for name, value in asdict(options).items()}
    if stored and stored != current:
        differing = [name for name, value in current.items() if stored.get(name) != value]
        raise DataError(
            f"{folder} contains tiles of images that were decoded with"
            f" {_format_options(stored, differing)}; this run has"
            f" {_format_options(current, differing)}. Change the option, or remove the"
            " folder and prepare the dataset again."
        )


def _plain(value: Any) -> Any:
    """Returns a value as JSON stores it."""
    return list(value) if isinstance(value, tuple) else value


def _format_options(options: Mapping[str, Any], names: Iterable[str]) -> str:
    return " and ".join(f"data.{name}={options.get(name)}" for name in names)


def _read_names(folder: Path, split: str) -> tuple[str, ...]:
    """Reads the names of the records; empty if the dataset does not list them."""
    lists = [folder / f"names-{part}.txt" for part in stored_splits(split)]
    if not all(path.is_file() for path in lists):
        return ()
    try:
        names = tuple(name for path in lists for name in path.read_text("utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the names of the records in {folder}: {error}.") from None
    for name in names:  # results are saved under them
        if escapes_folder(name):
            raise DataError(
                f"{folder} lists a record {name!r}, which would escape the results folder."
                f" {PREPARE_AGAIN}"
            )
    return names


class PreparedSource:
    """Random access to the images and labels of a split of a prepared dataset.

    Args:
      config: the dataset.
      split: name of the split, such as "train"; "trainval" and "train+val" join two splits.
      instances: whether to read instance ids, if the dataset has them.

    Attributes:
      has_instances: whether examples contain "instance": ids `h w`, uint8 or uint16.

    Raises:
      DataError: see `open_prepared`.

    Example:
      >>> source = PreparedSource(config, "val")
      >>> np.asarray(source[0]["image"]).shape
      (1024, 2048, 3)
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, config: DataConfig, split: str, instances: bool = False) -> None:
        features = ("image", "label", *(["instance"] if instances else []))
        stored_split = config.stored_split(split)
        self._records = open_prepared(config.root, config.name, stored_split, features)
        if split != stored_split and split in self._records.splits:
            raise own_files_error(config, split, f"Split {split!r} of {self._records.folder}")
        self.has_instances = "instance" in self._records.features
        self._options = config.decode_options
        check_tiles(self._records.folder, self._options)
        self._label_map = LabelMap(config)
        folder, parts = self._records.folder, stored_splits(stored_split)
        paths = [index_path(folder, part) for part in parts]
        self._sizes = read_index(paths, len(self._records), self._options)
        names = [self._records.name(index) for index in range(len(self._records))]
        self._indices = split_members(names, config, split)[: config.limit(split) or None]

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """Returns the name under which results of an image are saved."""
        return self._records.name(self._indices[index])

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of an image from the index, or else from its header. Raises DataError."""
        position = self._indices[index]
        if self._sizes:
            return self._sizes[position]
        image, name = self._records[position]["image"], self._records.describe(position)
        return stored_size(image, f"the image of {name}", self._options)

    def stored_bytes(self, index: int) -> int:
        """Reads the record of an image; returns its size in bytes."""
        return self._records.stored_bytes(self._indices[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a record.

        Returns:
          image: `h w c` uint8; label: `h w` uint8 train ids; index: int. Images and labels
          stored as tiles decode lazily (see `Tiles`).

        Raises:
          DataError: the record is damaged, its image differs in size from the label or the index,
            or the label contains unknown ids. Damaged tiles and their unknown ids are detected only
            on decoding.
          IndexError: no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        position = self._indices[index]
        record = self._records[position]
        image, ids = self._decode(record, position)
        pixels = image.pixels if isinstance(image, Decoded) else image
        if self._sizes and pixels.shape[:2] != self._sizes[position]:
            height, width = self._sizes[position]
            raise DataError(
                f"The image of {self._records.describe(position)} has {format_size(pixels)} pixels,"
                f" and {width}x{height} in the index of sizes. {PREPARE_AGAIN}"
            )
        example = {
            "image": pixels,
            "label": MappedLabel(ids, self._label_map, self.name(index)),
            "index": int(index),
        }
        if self.has_instances:
            name = f"the instance ids of {self._records.describe(position)}"
            example["instance"] = decode_label(record["instance"], name, self._options)
        return example

    def inspect(self, index: int) -> LabelStats:
        """Returns the label statistics and issues of a record, even if it cannot be decoded."""
        name = self.name(index)
        try:
            position = self._indices[index]
            record = self._records[position]
            image, label = self._decode(record, position)
            if isinstance(image, Decoded):
                warnings = image_warnings(name, image, self._options)
            else:
                warnings = contrast_warnings(name, np.asarray(image))
            ids = np.asarray(label)
        except DataError as error:
            return LabelStats.from_record(name, problems=[unreadable(name, error)])
        stats = inspect_label(name, name, ids, self._label_map, record["label"])
        stats.warnings[:0] = warnings
        return stats

    def _decode(self, record: dict[str, Any], position: int) -> tuple[Decoded | Tiles, Any]:
        """Returns image and label of a stored record: decoded, or as tiles."""
        name = self._records.describe(position)
        if Tiles.are_in(record["image"]):
            image = Tiles(record["image"], f"The image of {name}")
            label = Tiles(record["label"], f"The label of {name}")
            if image.shape[:2] != label.shape:
                raise DataError(
                    f"Sizes differ in {name}: the image is {format_size(image)}, the label"
                    f" {format_size(label)}. {PREPARE_AGAIN}"
                )
            return image, label
        decoded = decode_image(record["image"], f"the image of {name}", self._options)
        ids = decode_label(record["label"], f"the label of {name}", self._options)
        issue = check_label_size(
            "the image", decoded, self._options, "the label", ids, f" in {name}"
        )
        if issue:
            raise DataError(f"{issue}.")
        return decoded, ids
