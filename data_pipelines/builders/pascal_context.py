"""Pascal Context: images of VOC 2010 with 59 classes and background."""

import re
from dataclasses import dataclass
from functools import partial

import numpy as np

from data_pipelines.builders.builder import (
    Item,
    SegmentationBuilder,
    encode_png,
    refuse_folder,
)
from data_pipelines.downloads import Downloads, read_mat
from data_pipelines.errors import DataError
from data_pipelines.labels import PASCAL_CONTEXT_59

_NAMES = PASCAL_CONTEXT_59.names
# What the list of 59 classes calls three of the 459.
_ALIASES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


@dataclass(frozen=True)
class PascalContextBuilder(SegmentationBuilder):
    """Records hold 0 for background and 1 to 59 in the alphabetical order of the classes.

    The labels come from `trainval/*.mat`, with `labels.txt` naming their 459 ids, or from PNGs of
    60 ids. PNGs follow `59_labels.txt` where that lies beside them, else the alphabet.
    """

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        images = {
            m["name"]: m[0] for m in downloads.match(r"JPEGImages/(?P<name>\d{4}_\d{6})\.jpg")
        }
        mats = {m["name"]: m[0] for m in downloads.match(r"(?P<name>\d{4}_\d{6})\.mat")}
        folder = r"(?:SegmentationClassContext|59_context_labels|59_contexts?)"
        pngs = {
            m["name"]: m[0] for m in downloads.match(rf"{folder}/(?P<name>\d{{4}}_\d{{6}})\.png")
        }
        labels = mats or pngs
        lists = downloads.match(r"ImageSets/SegmentationContext/(?P<split>train|val)\.txt")
        lists = lists or downloads.match(r"ImageSets/Main/(?P<split>train|val)\.txt")
        if not (images and labels and lists):
            raise refuse_folder(
                downloads,
                "VOC 2010 (JPEGImages/ and ImageSets/Main/train.txt, val.txt) and the labels:"
                " trainval/*.mat with labels.txt, or SegmentationClassContext/*.png",
            )
        table = self._mat_table(downloads) if mats else self._png_table(downloads)
        splits: dict[str, list[Item]] = {}
        for listed in lists:
            for name in downloads.read(listed[0]).decode().split():
                if name not in labels or name not in images:
                    missing = f"label of {name}" if name in images else f"JPEGImages/{name}.jpg"
                    raise DataError(f"{listed[0]} lists {name}, but there is no {missing}.")
                splits.setdefault(listed["split"], []).append(
                    Item(name, images[name], labels[name], {"table": table})
                )
        return splits

    def label(
        self, downloads: Downloads, item: Item, size: tuple[int, int]
    ) -> tuple[np.ndarray, bytes]:
        """Returns ids 0 .. 59."""
        if item.label.endswith(".mat"):
            try:
                raw = read_mat(downloads.read(item.label), "LabelMap")
            except ValueError as error:
                raise DataError(
                    f"Cannot read LabelMap in {item.label} ({error}); replace the file."
                ) from None
        else:
            raw, _ = super().label(downloads, item, size)
        table = item.more["table"]
        if raw.ndim != 2 or raw.min() < 0 or raw.max() >= len(table) or (table[raw] > 59).any():
            raise DataError(
                f"{item.label} holds ids up to {raw.max()}; up to {len(table) - 1} have a name."
            )
        ids = table[raw]
        return ids, encode_png(ids)

    def _mat_table(self, downloads: Downloads) -> np.ndarray:
        """Our id of every one of the 459."""
        listed = downloads.match(r"labels\.txt")
        if not listed:
            raise refuse_folder(downloads, "labels.txt, which names the 459 ids of the .mat files")
        named = _read_list(downloads, listed[0][0])
        by_name = {name: number for number, name in named.items()}
        table = np.zeros(max(named) + 1, np.uint8)
        for ours, name in enumerate(_NAMES, start=1):
            if name not in by_name:
                raise DataError(f"{listed[0][0]} does not name the class {name!r}.")
            table[by_name[name]] = ours
        return table

    def _png_table(self, downloads: Downloads) -> np.ndarray:
        """Our id of every id in a PNG; 255 stays out of it."""
        listed = downloads.match(r"59_labels\.txt")
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


def _read_list(downloads: Downloads, name: str) -> dict[int, str]:
    """Reads lines like `12: bed`."""
    pairs = re.findall(r"^\s*(\d+)\s*[:\s]\s*(.+?)\s*$", downloads.read(name).decode(), re.M)
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
