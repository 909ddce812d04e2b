"""Images and labels out of prepared datasets: `tfds.data_source`, decoded here."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError, first_line
from data_pipelines.files.images import decode_image, decode_label, format_size, read_image_header
from data_pipelines.files.json import read_json
from data_pipelines.files.limits import escapes_folder
from data_pipelines.files.retry import read_with_retries
from data_pipelines.files.tiles import Tiles
from data_pipelines.sources.audit import Inspection, unreadable
from data_pipelines.sources.image_audit import contrast_warnings, image_warnings, size_problem
from data_pipelines.sources.label_inspection import inspect_label
from data_pipelines.sources.label_map import LabelMap, TrainIds
from gsto_jax.image_files import Decoded, DecodeOptions

INCOMPLETE_SUFFIX = ".incomplete"
"""What the folder of a dataset ends with until it is complete."""
PLAN = "plan.json"
"""What a dataset was prepared of: storage, counts, and of tiles the image rule."""

# What tensorflow-datasets' own builders call the splits and features that ours name otherwise.
_SPLITS = {"val": "validation"}
_JOINED = {"trainval": ("train", "val")}
_FEATURES = {"image": "image_left", "label": "segmentation_label"}
_OPTIONAL = ("instance", "height", "width")
_CONFIGS = ("", "semantic_segmentation")


@dataclass(frozen=True)
class Prepared:
    """One split of a prepared dataset, or several joined by "+".

    Attributes:
        folder: of the dataset.
        names: of the records; empty if they are not listed beside it.
        records: bytes and numbers by feature.
        features: their names in this dataset, by ours.
    """

    folder: Path
    names: tuple[str, ...]
    records: Any
    features: dict[str, str]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a record, images as the bytes of their files.

        Raises:
            DataError: it is damaged; names it.
            IndexError: there is no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            record = read_with_retries(
                lambda: self.records[int(index)], f"record {self.name(index)} of {self.folder}"
            )
        except OSError as error:
            place = f"record {self.name(index)} of {self.folder}"
            raise DataError(f"Cannot read {place}: {error.strerror or error}.") from None
        except Exception as error:  # the reader and the parser have no error of their own
            raise DataError(
                f"Record {self.name(index)} of {self.folder} is damaged"
                f" ({str(error).splitlines()[0] if str(error) else type(error).__name__}); remove"
                " the folder and prepare the dataset again."
            ) from None
        missing = [theirs for theirs in self.features.values() if record.get(theirs) is None]
        if missing:
            raise DataError(
                f"Record {self.name(index)} of {self.folder} is damaged (it lacks {missing[0]});"
                " remove the folder and prepare the dataset again."
            )
        return {ours: record[theirs] for ours, theirs in self.features.items()}

    def name(self, index: int) -> str:
        """Returns a record's name, or its number where names are not listed."""
        return self.names[index] if self.names else f"{index:06d}"


def open_prepared(root: str, name: str, split: str, wanted: Sequence[str]) -> Prepared:
    """Opens a dataset that was prepared, or built by tensorflow-datasets as ArrayRecord.

    Args:
        root: where datasets lie.
        name: of the dataset.
        split: see `stored_splits`.
        wanted: the features to read, by our names; instance ids may be lacking.

    Raises:
        DataError: it is not there, has no such split, lacks a feature, is damaged, or cannot be
            read at random.
    """
    import tensorflow_datasets as tfds

    folder = _folder_of(Path(root).expanduser() / name)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # of a library that takes its own files as sound
        raise _damaged(folder, error) from None
    parts = []
    for part in stored_splits(split):
        known = part if part in builder.info.splits else _SPLITS.get(part, part)
        if known not in builder.info.splits:
            raise DataError(
                f"{folder} has no split {part!r}: it has {', '.join(sorted(builder.info.splits))}."
            )
        parts.append(known)
    features = _features_of(builder.info.features, wanted, folder)
    coded = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    try:
        records = builder.as_data_source(split="+".join(parts), decoders=coded)
    except NotImplementedError as error:
        raise DataError(
            f"{folder} cannot be read at random ({error}): build it with"
            ' file_format="array_record".'
        ) from None
    except Exception as error:
        raise _damaged(folder, error) from None
    names = _names(folder, split)
    if names and len(names) != len(records):
        raise DataError(
            f"{folder} names {len(names)} records of {split} and holds {len(records)}; remove it"
            " and prepare the dataset again."
        )
    return Prepared(folder, names, records, features)


def _folder_of(base: Path) -> Path:
    """Returns the folder of the newest version of a dataset; raises DataError without one."""
    versions = (_newest_version(base / config) for config in _CONFIGS)
    folder = next((version for version in versions if version is not None), None)
    if folder is None:
        started = list(base.glob(f"*{INCOMPLETE_SUFFIX}"))
        raise DataError(
            f"There is no dataset {base}{' (one is half prepared)' if started else ''}: prepare it"
            " once with --mode=prepare --source=DOWNLOADS, and the same --config"
        )
    return folder


def _features_of(stored: Collection[str], wanted: Sequence[str], folder: Path) -> dict[str, str]:
    """Returns the stored names of features by ours; raises DataError where one is missing."""
    features = {
        ours: theirs
        for ours in wanted
        for theirs in (ours, _FEATURES.get(ours, ours))
        if theirs in stored
    }
    if missing := [ours for ours in wanted if ours not in features and ours not in _OPTIONAL]:
        raise DataError(
            f"{folder} has no {' and no '.join(missing)} in its records: is it another dataset? If"
            " not, remove the folder and prepare it again."
        )
    return features


def _damaged(folder: Path, error: Exception) -> DataError:
    return DataError(
        f"{folder} is damaged ({first_line(error)}); remove the folder and prepare the dataset"
        " again."
    )


def _newest_version(base: Path) -> Path | None:
    """The folder with the highest version in its name; unfinished ones have longer names."""
    folders = [
        path.parent
        for path in base.glob("*/features.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    return max(folders, key=lambda folder: [*map(int, folder.name.split("."))], default=None)


def stored_splits(split: str) -> list[str]:
    """The stored splits that one is made of: "train+val", or "trainval" for the same."""
    return [part for name in split.split("+") for part in _JOINED.get(name, (name,))]


def check_tiles(folder: Path, rule: DecodeOptions) -> None:
    """Raises DataError if the tiles of a dataset were made by another image rule."""
    path = folder / PLAN
    if not path.is_file():
        return
    plan = read_json(path.read_bytes(), path)
    made = plan.get("decode_options") if isinstance(plan, dict) else None
    if made and made != asdict(rule):
        differ = [name for name, value in asdict(rule).items() if made.get(name) != value]
        raise DataError(
            f"{folder} holds tiles of images that were read with {_settings(made, differ)}, and"
            f" this run reads with {_settings(asdict(rule), differ)}: change the setting, or remove"
            " the folder and prepare the dataset again."
        )


def _settings(rule: Mapping[str, Any], names: Iterable[str]) -> str:
    return " and ".join(f"data.{name}={rule.get(name)}" for name in names)


def _names(folder: Path, split: str) -> tuple[str, ...]:
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
                f"{folder} names a record {name!r}, which leads out of the folder of results;"
                " remove it and prepare the dataset again."
            )
    return names


class PreparedSource:
    """Random access to the images of a prepared split.

    Args:
        config: which dataset, and what its ids mean.
        split: such as "train"; "trainval" and "train+val" join two.
        instances: reads instance ids too, where the dataset has them.

    Attributes:
        has_instances: whether elements hold "instance": ids `h w`, uint8 or uint16.

    Raises:
        DataError: see `open_prepared`.

    Example:
        >>> source = PreparedSource(config, "val")
        >>> np.asarray(source[0]["image"]).shape
        (1024, 2048, 3)
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, config: DataConfig, split: str, instances: bool = False) -> None:
        wanted = ("image", "label", *(["instance"] if instances else []))
        self._records = open_prepared(config.root, config.name, split, wanted)
        self.has_instances = "instance" in self._records.features
        self._rule = config.decode_options
        check_tiles(self._records.folder, self._rule)
        self._label_map = LabelMap(config)
        self._size = min(config.limit(split) or len(self._records), len(self._records))

    def __len__(self) -> int:
        return self._size

    def name(self, index: int) -> str:
        """Returns an image's name: a name to save results under."""
        return self._records.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of an image, without decoding it. Raises DataError."""
        image = self._records[index]["image"]
        if Tiles.are_in(image):
            height, width = self._tiles(image, "image", index).shape[:2]
            return height, width
        return read_image_header(image, f"the image of {self._described(index)}").oriented_size(
            self._rule
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a record; what is stored in tiles is decoded as it is sliced.

        Returns:
            image: `h w 3` uint8 RGB; label: `h w` uint8 train ids; both arrays or what can be
            sliced like one; index: int.

        Raises:
            DataError: it is damaged, image and label differ in size, or the label has unknown ids;
                what is stored in tiles tells of those when they are decoded.
            IndexError: there is no such record.
        """
        if not 0 <= index < self._size:
            raise IndexError(index)
        record, name = self._records[index], self._described(index)
        image, raw = self._images(record, index)
        label = TrainIds(raw, self._label_map, self.name(index))
        pixels = image.pixels if isinstance(image, Decoded) else image
        element = {"image": pixels, "label": label, "index": int(index)}
        if self.has_instances:
            place = f"the instance ids of {name}"
            element["instance"] = decode_label(record["instance"], place, self._rule)
        return element

    def inspect(self, index: int) -> Inspection:
        """Reads a record whole, and tells what its label holds."""
        name = self.name(index)
        try:
            record = self._records[index]
            image, raw = self._images(record, index)
            warnings = (
                image_warnings(name, image, self._rule)
                if isinstance(image, Decoded)
                else contrast_warnings(name, np.asarray(image))
            )
            ids = np.asarray(raw)
        except DataError as error:
            return Inspection(name, problems=(unreadable(name, error),))
        found = inspect_label(name, name, ids, self._label_map, record["label"])
        return replace(found, warnings=(*warnings, *found.warnings))

    def _images(self, record: dict[str, Any], index: int) -> tuple[Decoded | Tiles, Any]:
        """Image and label of a record, the image decoded or in tiles."""
        name = self._described(index)
        image, label = record["image"], record["label"]
        if Tiles.are_in(image):
            image, label = self._tiles(image, "image", index), self._tiles(label, "label", index)
            if image.shape[:2] != label.shape:
                raise DataError(
                    f"Sizes differ in {name}: the image is {format_size(image)}, the label"
                    f" {format_size(label)}; a label needs its image's size."
                )
            return image, label
        decoded = decode_image(image, f"the image of {name}", self._rule)
        ids = decode_label(label, f"the label of {name}", self._rule)
        size = (ids.shape[0], ids.shape[1])
        problem = size_problem("the image", decoded, self._rule, "the label", size, f" in {name}")
        if problem:
            raise DataError(f"{problem}.")
        return decoded, ids

    def _tiles(self, data: bytes, kind: str, index: int) -> Tiles:
        return Tiles(data, f"The {kind} of {self._described(index)}")

    def _described(self, index: int) -> str:
        return f"record {self.name(index)} of {self._records.folder}"
