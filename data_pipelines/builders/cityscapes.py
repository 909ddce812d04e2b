"""Cityscapes with fine annotations, from its two zips or the unpacked folders."""

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


@dataclass(frozen=True)
class CityscapesBuilder(SegmentationBuilder):
    """Images, label ids and instance ids. Test images may come without labels."""

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        stem = r"(?P<stem>(?P<split>train|val|test)/[^/]+/[^/]+)"
        images = downloads.match(rf"leftImg8bit/{stem}_leftImg8bit\.png")
        if not images:
            raise wrong_downloads_error(
                downloads,
                "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, or the folders"
                " leftImg8bit/ and gtFine/ of them",
            )
        annotations = {
            (match["stem"], match["kind"]): match[0]
            for match in downloads.match(
                rf"gtFine/{stem}_gtFine_(?P<kind>labelIds|instanceIds)\.png"
            )
        }
        missing = [
            (image, kind)
            for image in images
            for kind in ("labelIds", "instanceIds")
            if image["split"] != "test" and (image["stem"], kind) not in annotations
        ]
        if missing:
            image, kind = missing[0]
            stems = list(dict.fromkeys(image["stem"] for image, _ in missing))
            raise DataError(
                f"{image[0]} has no gtFine/{image['stem']}_gtFine_{kind}.png in"
                f" {downloads.source}{count_others(stems)}. Check that gtFine_trainvaltest.zip is"
                " present and complete."
            )
        splits: dict[str, list[Item]] = {}
        for image in images:
            name = image["stem"].split("/", 1)[1]
            label = annotations.get((image["stem"], "labelIds"), "")
            instance = annotations.get((image["stem"], "instanceIds"), "")
            items = splits.setdefault(image["split"], [])
            items.append(Item(name, image[0], label, {"instance": instance}))
        return splits

    def label(
        self, downloads: Downloads, item: Item, size: tuple[int, int]
    ) -> tuple[np.ndarray, bytes]:
        """See `SegmentationBuilder.label`. A test image without label gets id 0, unlabeled."""
        if item.label:
            return super().label(downloads, item, size)
        ids = np.zeros(size, np.uint8)
        return ids, encode_png(ids)


cityscapes = partial(
    CityscapesBuilder,
    name="cityscapes",
    homepage="https://www.cityscapes-dataset.com",
    counts={"train": 2975, "val": 500, "test": 1525},
    image_format="png",
    shard_size=64,
    instances=True,
)
