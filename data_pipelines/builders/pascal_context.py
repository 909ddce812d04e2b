"""Pascal Context: images of VOC 2010 with 59 classes and background."""

import re
from dataclasses import dataclass
from functools import partial

import numpy as np

from data_pipelines.builders.builder import (
    Item,
    SegmentationBuilder,
    and_more,
    encode_png,
    wrong_downloads_error,
)
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.matlab import read_mat
from data_pipelines.labels import IGNORE_LABEL, PASCAL_CONTEXT_59

_NAMES = PASCAL_CONTEXT_59.names
_STEM = r"(?P<name>\d{4}_\d{6})"
# What the list of 59 classes calls three of the 459.
_ALIASES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


@dataclass(frozen=True)
class PascalContextBuilder(SegmentationBuilder):
    """Records hold 0 for background and 1 to 59 in the alphabetical order of the classes.

    The labels come from `trainval/*.mat`, with `labels.txt` naming their 459 ids, or from PNGs of
    60 ids. PNGs follow `59_labels.txt` where that lies beside them. Those of
    `SegmentationClassContext/` may come without it, and then follow the alphabet.
    """

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        images = {m["name"]: m[0] for m in _voc(downloads, rf"JPEGImages/{_STEM}\.jpg")}
        mats = {m["name"]: m[0] for m in downloads.match(rf"{_STEM}\.mat")}
        folder = r"(?P<folder>SegmentationClassContext|59_context\w*)"
        found = downloads.match(rf"{folder}/{_STEM}\.png")
        labels = mats or {m["name"]: m[0] for m in found}
        split_list = r"(?P<split>train|val)\.txt"
        lists = downloads.match(rf"ImageSets/SegmentationContext/{split_list}")
        lists = lists or _voc(downloads, rf"ImageSets/Main/{split_list}")
        if not (images and labels and lists):
            raise wrong_downloads_error(
                downloads,
                "VOC 2010 (JPEGImages/ and ImageSets/Main/train.txt, val.txt) and the labels:"
                " trainval/*.mat with labels.txt, or SegmentationClassContext/*.png, or"
                " 59_context_labels/*.png with 59_labels.txt",
            )
        if mats:
            table = self._mat_table(downloads)
        else:
            published = any(m["folder"].startswith("59") for m in found)
            table = self._png_table(downloads, published)
        splits: dict[str, list[Item]] = {}
        for listed in lists:
            names = downloads.read_text(listed[0]).split()
            lacking = [name for name in names if name not in labels or name not in images]
            if lacking:
                name = lacking[0]
                missing = f"label of {name}" if name in images else f"JPEGImages/{name}.jpg"
                raise DataError(
                    f"{listed[0]} lists {name}, but {downloads.source} has no {missing}"
                    f"{and_more(lacking)}: are the images of VOC 2010 and the labels there, and"
                    " whole?"
                )
            for name in names:
                splits.setdefault(listed["split"], []).append(
                    Item(name, images[name], labels[name], {"table": table})
                )
        return splits

    def label(
        self, downloads: Downloads, item: Item, size: tuple[int, int]
    ) -> tuple[np.ndarray, bytes]:
        """Returns ids 0 .. 59, and 255 where nothing is scored."""
        if item.label.endswith(".mat"):
            try:
                raw = read_mat(downloads.read(item.label), "LabelMap")
            except ValueError as error:
                raise DataError(
                    f"Cannot read LabelMap in {item.label} ({error}); replace the file."
                ) from None
            none = -1
        else:
            raw, _ = super().label(downloads, item, size)
            none = IGNORE_LABEL
        table = item.more["table"]
        whole = raw.astype(np.int64)
        ignored = whole == none
        wrong = ~ignored & ((whole != raw) | (whole < 0) | (whole >= len(table)))
        if raw.ndim != 2 or wrong.any():
            value = raw[wrong][0] if wrong.any() else f"{raw.ndim} axes"
            raise DataError(
                f"{item.label} holds {value}: ids up to {len(table) - 1} have a name, and {none}"
                " stands for none; replace the file."
            )
        ids = np.where(ignored, IGNORE_LABEL, table[np.where(ignored, 0, whole)]).astype(np.uint8)
        return ids, encode_png(ids)

    def _mat_table(self, downloads: Downloads) -> np.ndarray:
        """Our id of every one of the 459."""
        listed = downloads.match(r"labels\.txt")
        if not listed:
            raise wrong_downloads_error(
                downloads, "labels.txt, which names the 459 ids of the .mat files"
            )
        named = _read_list(downloads, listed[0][0])
        by_name = {name: number for number, name in named.items()}
        table = np.zeros(max(named) + 1, np.uint8)
        for ours, name in enumerate(_NAMES, start=1):
            if name not in by_name:
                raise DataError(f"{listed[0][0]} does not name the class {name!r}.")
            table[by_name[name]] = ours
        return table

    def _png_table(self, downloads: Downloads, published: bool) -> np.ndarray:
        """Our id of every id in a PNG."""
        listed = downloads.match(r"59_labels\.txt")
        if not listed and published:
            raise wrong_downloads_error(
                downloads, "59_labels.txt, which names the 59 ids of the published PNGs"
            )
        if not listed:
            return np.arange(60, dtype=np.uint8)
        named = _read_list(downloads, listed[0][0])
        table = np.zeros(60, np.uint8)
        for number, name in named.items():
            name = _ALIASES.get(name, name)
            if name not in _NAMES or not 0 < number < 60:
                raise DataError(f"{listed[0][0]} names {number}: {name}, none of the 59 classes.")
            table[number] = _NAMES.index(name) + 1
        return table


def _voc(downloads: Downloads, pattern: str) -> list[re.Match[str]]:
    """Files of VOC 2010, where other years lie beside it; else of whatever there is."""
    found = downloads.match(pattern)
    return [match for match in found if "VOC2010/" in match[0]] or found


def _read_list(downloads: Downloads, name: str) -> dict[int, str]:
    """Reads lines like `12: bed`."""
    pairs = re.findall(r"^\s*(\d+)\s*[:\s]\s*(.+?)\s*$", downloads.read_text(name), re.M)
    if not pairs:
        raise DataError(f"{name} has no line like `12: bed`.")
    return {int(number): label.replace(" ", "") for number, label in pairs}


pascal_context = partial(
    PascalContextBuilder,
    name="pascal_context",
    homepage="https://cs.stanford.edu/~roozbeh/pascal-context",
    counts={"train": 4998, "val": 5105},
    image_format="jpeg",
    shard_size=512,
)
