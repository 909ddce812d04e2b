"""Pascal Context: images of VOC 2010 with 59 classes and background."""

import re
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from data_pipelines.builders.builder import (
    Item,
    SegmentationBuilder,
    encode_png,
    wrong_downloads_error,
)
from data_pipelines.builders.pascal_voc import match_voc, pair_listed
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.matlab import read_mat
from data_pipelines.labels import IGNORE_LABEL, PASCAL_CONTEXT_59

_CLASS_NAMES = PASCAL_CONTEXT_59.names
_NAME = r"(?P<name>\d{4}_\d{6})"
# Names in 59_labels.txt of three classes that labels.txt names otherwise.
_ALIASES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


@dataclass(frozen=True)
class PascalContextBuilder(SegmentationBuilder):
    """Images with labels: 0 is background, 1 to 59 are the classes in alphabetical order.

    Labels come from `trainval/*.mat`, whose 459 ids `labels.txt` names, or from PNGs of 60 ids,
    which `59_labels.txt` names. PNGs in `SegmentationClassContext/` may come without that file;
    their ids are in alphabetical order then.
    """

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        images = {m["name"]: m[0] for m in match_voc(downloads, rf"JPEGImages/{_NAME}\.jpg", 2010)}
        mats = {m["name"]: m[0] for m in downloads.match(rf"{_NAME}\.mat")}
        folder = r"(?P<folder>SegmentationClassContext|59_context\w*)"
        pngs = downloads.match(rf"{folder}/{_NAME}\.png")
        labels = mats or {m["name"]: m[0] for m in pngs}
        list_file = r"(?P<split>train|val)\.txt"
        lists = downloads.match(rf"ImageSets/SegmentationContext/{list_file}")
        lists = lists or match_voc(downloads, rf"ImageSets/Main/{list_file}", 2010)
        if not (images and labels and lists):
            raise wrong_downloads_error(
                downloads,
                "VOC 2010 (JPEGImages/ and ImageSets/Main/train.txt, val.txt) and the labels:"
                " trainval/*.mat with labels.txt, or SegmentationClassContext/*.png, or"
                " 59_context_labels/*.png with 59_labels.txt",
            )
        if mats:
            table = _mat_table(downloads)
        else:
            table = _png_table(downloads, any(m["folder"].startswith("59") for m in pngs))
        splits: dict[str, list[Item]] = {}
        for match in lists:
            names = downloads.read_text(match[0]).split()
            paired = pair_listed(
                downloads,
                match[0],
                names,
                images=images,
                labels=labels,
                label_file="label of {name}",
                complete="the images of VOC 2010 and the labels are complete",
            )
            items = splits.setdefault(match["split"], [])
            items += [replace(item, extra={"table": table}) for item in paired]
        return splits

    def label(
        self, downloads: Downloads, item: Item, size: tuple[int, int]
    ) -> tuple[np.ndarray, bytes]:
        """See `SegmentationBuilder.label`. Returns ids 0 to 59, and 255 for unlabeled pixels."""
        if item.label.endswith(".mat"):
            try:
                stored = read_mat(downloads.read(item.label), "LabelMap")
            except ValueError as error:
                raise DataError(
                    f"Cannot read LabelMap in {item.label} ({error}). Replace the file."
                ) from None
            unlabeled = -1
        else:
            stored, _ = super().label(downloads, item, size)
            unlabeled = IGNORE_LABEL
        table = item.extra["table"]
        ids = stored.astype(np.int64)
        ignored = ids == unlabeled
        invalid = ~ignored & ((ids != stored) | (ids < 0) | (ids >= len(table)))
        if stored.ndim != 2 or invalid.any():
            value = stored[invalid][0] if invalid.any() else f"{stored.ndim} axes"
            raise DataError(
                f"{item.label} must contain ids up to {len(table) - 1}, or {unlabeled} for"
                f" unlabeled pixels; got {value}. Replace the file."
            )
        mapped = np.where(ignored, IGNORE_LABEL, table[np.where(ignored, 0, ids)])
        mapped = mapped.astype(np.uint8)
        return mapped, encode_png(mapped)


def _mat_table(downloads: Downloads) -> np.ndarray:
    """Returns the lookup table, uint8, from the 459 ids of the .mat files to stored ids."""
    lists = downloads.match(r"labels\.txt")
    if not lists:
        raise wrong_downloads_error(
            downloads, "labels.txt, which names the 459 ids of the .mat files"
        )
    path = lists[0][0]
    names = _read_names(downloads, path)
    ids = {name: file_id for file_id, name in names.items()}
    table = np.zeros(max(names) + 1, np.uint8)
    for class_id, name in enumerate(_CLASS_NAMES, start=1):
        if name not in ids:
            raise DataError(f"{path} must name the class {name!r}; download it again.")
        table[ids[name]] = class_id
    return table


def _png_table(downloads: Downloads, needs_names: bool) -> np.ndarray:
    """Returns the lookup table, uint8, from the 60 ids of the PNGs to stored ids."""
    lists = downloads.match(r"59_labels\.txt")
    if not lists:
        if needs_names:
            raise wrong_downloads_error(
                downloads, "59_labels.txt, which names the 59 ids of the published PNGs"
            )
        return np.arange(60, dtype=np.uint8)
    path = lists[0][0]
    table = np.zeros(60, np.uint8)
    for file_id, name in _read_names(downloads, path).items():
        name = _ALIASES.get(name, name)
        if name not in _CLASS_NAMES or not 0 < file_id < 60:
            raise DataError(f"{path} must name the 59 classes; got {file_id}: {name}.")
        table[file_id] = _CLASS_NAMES.index(name) + 1
    return table


def _read_names(downloads: Downloads, path: str) -> dict[int, str]:
    """Reads lines like `12: bed` as names by id."""
    pairs = re.findall(r"^\s*(\d+)\s*[:\s]\s*(.+?)\s*$", downloads.read_text(path), re.M)
    if not pairs:
        raise DataError(f"{path} must contain lines such as `12: bed`; it has none.")
    return {int(number): name.replace(" ", "") for number, name in pairs}


pascal_context = partial(
    PascalContextBuilder,
    name="pascal_context",
    homepage="https://cs.stanford.edu/~roozbeh/pascal-context",
    counts={"train": 4998, "val": 5105},
    image_format="jpeg",
    shard_size=512,
)
