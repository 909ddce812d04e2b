"""COCO keypoints: `person_keypoints_*.json`, `image_info_test-dev*.json`, and the images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from data_pipelines.builders.builder import Builder, Example, Item, refuse_folder
from data_pipelines.decode import check_whole, decode_image
from data_pipelines.downloads import Downloads
from data_pipelines.errors import DataError
from data_pipelines.image_audit import check_listed_size
from data_pipelines.persons import is_sample


@dataclass(frozen=True, kw_only=True)
class CocoKeypointsBuilder(Builder):
    """One record an image, with all its annotations; a sample is one person of a record.

    Training images without a sample are left out; those of val stay, since detectors find people
    there too. Images of test-dev, which may be absent, have no annotations.
    """

    def count(self, items: Sequence[Item]) -> int:
        """Returns how many samples the records hold."""
        return sum(item.more["samples"] for item in items)

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        found = downloads.match(r"person_keypoints_(?P<split>train|val)(?:20\d\d)?\.json")
        if not found:
            raise refuse_folder(
                downloads,
                "annotations_trainval2017.zip, train2017.zip and val2017.zip, or the folders"
                " annotations/ (person_keypoints_train2017.json, ...), train2017/ and val2017/",
            )
        items = {match["split"]: _items(downloads, match[0], match["split"]) for match in found}
        for match in downloads.match(r"image_info_test-dev(?:20\d\d)?\.json"):
            items["test"] = _items(downloads, match[0], "test")
        return items

    def features(self, storage: str) -> dict[str, str]:
        """See `Builder.features`."""
        numbers = dict.fromkeys(("image_id", "height", "width"), "int")
        return {"name": "text", "image": "jpeg", "annotations": "text"} | numbers

    def example(self, downloads: Downloads, item: Item, storage: str) -> Example:
        """See `Builder.example`."""
        data = downloads.read(item.image)
        check_whole(data, item.image)
        size = item.more["size"]
        check_listed_size(item.image, decode_image(data, item.image, self.rule), self.rule, size)
        return {
            "name": item.name,
            "image": data,
            "image_id": item.more["image_id"],
            "height": size[0],
            "width": size[1],
            "annotations": json.dumps(item.more["annotations"], separators=(",", ":")),
        }


_KEPT = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "num_keypoints", "keypoints")


def _items(downloads: Downloads, listed: str, split: str) -> list[Item]:
    try:
        content = downloads.read_json(listed)
        images = content["images"]
        annotations = [] if split == "test" else content["annotations"]
        by_image: dict[int, list[dict[str, Any]]] = {}
        for person in annotations:
            if "keypoints" not in person:
                raise DataError(
                    f"{listed}: annotation {person.get('id')} has no keypoints; is it the"
                    " instances file? person_keypoints_*.json is needed."
                )
            kept = {key: person[key] for key in _KEPT if key in person}
            if (
                not (_are_numbers(kept["bbox"], 4) and _are_numbers(kept["keypoints"]))
                or len(kept["keypoints"]) % 3
            ):
                raise DataError(
                    f"{listed}: annotation {person['id']} has the box {str(kept['bbox'])[:60]} and"
                    f" the keypoints {str(kept['keypoints'])[:60]}; x, y, w, h and x, y, v for each"
                    " joint are needed."
                )
            by_image.setdefault(person["image_id"], []).append(kept)
        paths = {match["file"]: match[0] for match in downloads.match(_image_pattern(split))}
        items = []
        for image in sorted(images, key=lambda image: image["id"]):
            persons = by_image.get(image["id"], [])
            samples = sum(map(is_sample, persons))
            if not samples and split == "train":
                continue
            if image["file_name"] not in paths:
                raise DataError(
                    f"{listed} lists {image['file_name']}, but {downloads.source} has no such image"
                    f" in {split}2017/: is {split}2017.zip there, and whole?"
                )
            more = {"image_id": image["id"], "annotations": persons, "samples": samples}
            more["size"] = tuple(_listed_side(image.get(side)) for side in ("height", "width"))
            name = image["file_name"].rsplit(".", 1)[0]
            items.append(Item(name, paths[image["file_name"]], more=more))
        return items
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{listed} is no file of COCO keypoints: {error} is missing or of a wrong kind."
        ) from None


def _listed_side(value: Any) -> int:
    """Returns the height or width that the JSON gives an image; 0 where it gives none."""
    return value if type(value) is int and 0 < value < 2**31 else 0


def _are_numbers(values: Any, count: int | None = None) -> bool:
    return (
        isinstance(values, list)
        and count in (None, len(values))
        and all(isinstance(value, int | float) for value in values)
    )


def _image_pattern(split: str) -> str:
    return rf"{split}(?:20\d\d)?/(?P<file>[^/]+\.(?:jpg|jpeg|png))"


coco_keypoints = partial(
    CocoKeypointsBuilder,
    name="coco_keypoints",
    homepage="https://cocodataset.org",
    counts={"train": 149813, "val": 6352},
    counted="persons",
    storages=("files",),
    shard_size=1024,
)
