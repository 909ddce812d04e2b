"""Cityscapes, fine annotations, from its two zips or the unpacked tree."""

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


@dataclass(frozen=True)
class CityscapesBuilder(SegmentationBuilder):
    """Images, label ids and instance ids; the test split has no labels worth scoring."""

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        splits: dict[str, list[Item]] = {}
        stem = r"(?P<stem>(?P<split>train|val|test)/[^/]+/[^/]+)"
        truth = {
            (found["stem"], found["kind"]): found[0]
            for found in downloads.match(
                rf"gtFine/{stem}_gtFine_(?P<kind>labelIds|instanceIds)\.png"
            )
        }
        images = downloads.match(rf"leftImg8bit/{stem}_leftImg8bit\.png")
        lacking = [
            found["stem"]
            for found in images
            if found["split"] != "test"
            and not all((found["stem"], kind) in truth for kind in ("labelIds", "instanceIds"))
        ]
        for found in images:
            name, split = found["stem"], found["split"]
            label = truth.get((name, "labelIds"), "")
            instance = truth.get((name, "instanceIds"), "")
            if split != "test" and not (label and instance):
                kind = "instanceIds" if label else "labelIds"
                raise DataError(
                    f"{found[0]} has no gtFine/{name}_gtFine_{kind}.png in {downloads.source}"
                    f"{and_more(lacking)}: is gtFine_trainvaltest.zip there, and whole?"
                )
            splits.setdefault(split, []).append(
                Item(name.split("/", 1)[1], found[0], label, {"instance": instance})
            )
        if not splits:
            raise wrong_downloads_error(
                downloads,
                "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, or the folders"
                " leftImg8bit/ and gtFine/ out of them",
            )
        return splits

    def label(
        self, downloads: Downloads, item: Item, size: tuple[int, int]
    ) -> tuple[np.ndarray, bytes]:
        """Returns label ids; all unlabeled (0) where a test image comes without."""
        if item.label:
            return super().label(downloads, item, size)
        empty = np.zeros(size, np.uint8)
        return empty, encode_png(empty)


cityscapes = partial(
    CityscapesBuilder,
    name="cityscapes",
    homepage="https://www.cityscapes-dataset.com",
    counts={"train": 2975, "val": 500, "test": 1525},
    image_format="png",
    shard_size=64,
    instances=True,
)
