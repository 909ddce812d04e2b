"""Pascal VOC 2012 segmentation, with the further labels of SBD."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from data_pipelines.builders.builder import (
    Item,
    SegmentationBuilder,
    count_others,
    encode_png,
    wrong_downloads_error,
)
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.matlab import read_struct_array

_NAME = r"(?P<name>\d{4}_\d{6})"


@dataclass(frozen=True)
class PascalVOCBuilder(SegmentationBuilder):
    """Splits train and val of VOC 2012, and aug: the images of SBD in neither of them.

    SBD's labels come from `cls/*.mat`, or from `SegmentationClassAug/`, the same labels as PNGs.
    """

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        images, labels = (
            {m["name"]: m[0] for m in match_voc(downloads, pattern, 2012)}
            for pattern in (rf"JPEGImages/{_NAME}\.jpg", rf"SegmentationClass/{_NAME}\.png")
        )
        lists = match_voc(downloads, r"ImageSets/Segmentation/(?P<split>train|val)\.txt", year=2012)
        if not (images and labels and lists):
            raise wrong_downloads_error(
                downloads,
                "VOCtrainval_11-May-2012.tar, or its folders JPEGImages/, SegmentationClass/ and"
                " ImageSets/Segmentation/",
            )
        splits: dict[str, list[Item]] = {}
        voc_names: set[str] = set()
        for match in lists:
            names = downloads.read_text(match[0]).split()
            voc_names.update(names)
            splits[match["split"]] = _pair(downloads, match[0], names, images=images, labels=labels)
        sbd = downloads.match(rf"cls/{_NAME}\.mat")
        sbd = sbd or downloads.match(rf"SegmentationClassAug/{_NAME}\.png")
        if sbd:
            sbd_labels = {m["name"]: m[0] for m in sbd if m["name"] not in voc_names}
            splits["aug"] = _pair(
                downloads, "SBD", sorted(sbd_labels), images=images, labels=sbd_labels
            )
        return splits

    def label(
        self, downloads: Downloads, item: Item, size: tuple[int, int]
    ) -> tuple[np.ndarray, bytes]:
        """See `SegmentationBuilder.label`. Returns ids 0 to 20, and 255 for unlabeled pixels."""
        if not item.label.endswith(".mat"):
            return super().label(downloads, item, size)
        try:
            ids = read_struct_array(downloads.read(item.label), "GTcls", "Segmentation")
        except ValueError as error:
            raise DataError(
                f"Cannot read GTcls.Segmentation in {item.label} ({error}). Replace the file."
            ) from None
        if ids.dtype != np.uint8 or ids.ndim != 2:
            raise DataError(
                f"{item.label} must contain an image of 8-bit ids; got {ids.dtype} of shape"
                f" {ids.shape}. Replace the file."
            )
        ids = np.ascontiguousarray(ids)
        return ids, encode_png(ids)


def match_voc(downloads: Downloads, pattern: str, year: int) -> list[re.Match[str]]:
    """Matches files of one year of VOC if there are any, else files of any year."""
    matches = downloads.match(pattern)
    return [match for match in matches if f"VOC{year}/" in match[0]] or matches


def pair_listed(
    downloads: Downloads,
    listing: str,
    names: Sequence[str],
    *,
    images: Mapping[str, str],
    labels: Mapping[str, str],
    label_file: str,
    complete: str,
) -> list[Item]:
    """Returns an item of each listed name.

    Args:
      downloads: the downloads.
      listing: what lists the names.
      names: names of the records.
      images: paths of images by name.
      labels: paths of labels by name.
      label_file: a missing label, with `{name}` for its name.
      complete: what the user must check, such as "VOC 2012 is complete".

    Raises:
      DataError: an image or label is missing.
    """
    missing = [name for name in names if name not in images or name not in labels]
    if missing:
        name = missing[0]
        file = label_file.format(name=name) if name in images else f"JPEGImages/{name}.jpg"
        raise DataError(
            f"{listing} lists {name}, but {downloads.source} has no {file}{count_others(missing)}."
            f" Check that {complete}."
        )
    return [Item(name, images[name], labels[name]) for name in names]


_pair = partial(
    pair_listed, label_file="SegmentationClass/{name}.png", complete="VOC 2012 is complete"
)

pascal_voc = partial(
    PascalVOCBuilder,
    name="pascal_voc",
    homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
    counts={"train": 1464, "val": 1449, "aug": 9118},
    image_format="jpeg",
    shard_size=512,
)
