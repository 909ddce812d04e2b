"""COCO keypoints: `person_keypoints_*.json`, `image_info_test-dev*.json`, and the images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from data_pipelines.builders.builder import Builder, Example, Item, wrong_downloads_error
from data_pipelines.builders.coco_images import CocoImages
from data_pipelines.config import Keypoints
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.images import decode_image, verify_image
from data_pipelines.sources.boxes import box_outside
from data_pipelines.sources.coco_entries import MAX_PERSONS, Person, is_number, is_sample
from data_pipelines.sources.coco_file import (
    Category,
    KeypointFile,
    read_image_list,
    read_keypoint_file,
)
from data_pipelines.sources.image_audit import check_listed_size


@dataclass(frozen=True, kw_only=True)
class CocoKeypointsBuilder(Builder):
    """One record an image, with all its annotations; a sample is one person of a record.

    Training images without a sample are left out; those of val stay, since detectors find people
    there too. Images of test-dev, which may be absent, have no annotations.

    Attributes:
      keypoints: the configured joints and category; None: any number of joints.
    """

    keypoints: Keypoints | None = None

    def count(self, items: Sequence[Item]) -> int:
        """Returns how many samples the records hold."""
        return sum(item.more["samples"] for item in items)

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        found = downloads.match(r"person_keypoints_(?P<split>train|val)(?:20\d\d)?\.json")
        if not found:
            raise wrong_downloads_error(
                downloads,
                "annotations_trainval2017.zip, train2017.zip and val2017.zip, or the folders"
                " annotations/ (person_keypoints_train2017.json, ...), train2017/ and val2017/",
            )
        files: dict[str, tuple[str, KeypointFile]] = {}
        for match in found:
            split, listed = match["split"], match[0]
            if split in files:
                raise DataError(
                    f"{downloads.source} has {files[split][0]} and {listed}; keep one of them."
                )
            files[split] = listed, self._read(downloads, listed)
        category = _one_category(files)
        items = {
            split: _persons(downloads, listed, split, content)
            for split, (listed, content) in files.items()
        }
        for match in downloads.match(r"image_info_test-dev(?:20\d\d)?\.json"):
            images, notes = read_image_list(downloads.read_json(match[0]), match[0])
            downloads.notes += notes.lines()
            items["test"] = _items(downloads, match[0], "test", images, {}, category)
        return items

    def _read(self, downloads: Downloads, listed: str) -> KeypointFile:
        wanted = (self.keypoints.category, self.keypoints.names) if self.keypoints else ("", ())
        content = read_keypoint_file(downloads.read_json(listed), listed, *wanted)
        downloads.notes += content.notes
        return content

    def content(self, item: Item) -> str:
        """See `Builder.content`."""
        return f"{item.name} {json.dumps(item.more)}"

    def shared_metadata(self, items: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
        """See `Builder.shared_metadata`: the category."""
        return next(item.more["category"] for records in items.values() for item in records)

    def conflict(self, shared_metadata: Mapping[str, Any]) -> str:
        """See `Builder.conflict`."""
        category = Category(shared_metadata["id"], shared_metadata["name"])
        wanted = self.keypoints.category if self.keypoints else ""
        return (
            ""
            if not wanted or category.is_called(wanted)
            else (
                f"persons of category {category}, and config.data.keypoints.category is {wanted!r}"
            )
        )

    def side_files(self, items: Mapping[str, Sequence[Item]]) -> dict[str, str]:
        """See `Builder.side_files`: the category, and for each record its id and samples."""
        files = {"category.json": json.dumps(self.shared_metadata(items))}
        for split, records in items.items():
            for kind, key in (("samples", "samples"), ("image_ids", "image_id")):
                files[f"{kind}-{split}.json"] = json.dumps([item.more[key] for item in records])
        return files

    def features(self, storage: str) -> dict[str, str]:
        """See `Builder.features`."""
        numbers = dict.fromkeys(("image_id", "height", "width"), "int")
        return {"name": "text", "image": "jpeg", "annotations": "text"} | numbers

    def example(self, downloads: Downloads, item: Item, storage: str) -> Example:
        """See `Builder.example`."""
        data = downloads.read(item.image)
        verify_image(data, item.image)
        decoded, size = decode_image(data, item.image, self.rule), tuple(item.more["size"])
        check_listed_size(item.image, decoded, self.rule, size)
        for person in filter(is_sample, item.more["annotations"]):
            if message := box_outside(person["bbox"], decoded.pixels.shape):
                raise DataError(
                    f"Annotation {person['id']} of {item.image} has {message}; give x, y, w, h in"
                    " pixels of the image, or remove it."
                )
        return {
            "name": item.name,
            "image": data,
            "image_id": item.more["image_id"],
            "height": size[0],
            "width": size[1],
            "annotations": json.dumps(item.more["annotations"], separators=(",", ":")),
        }


def _one_category(files: Mapping[str, tuple[str, KeypointFile]]) -> Category:
    """Returns the category of all files. Raises DataError where their ids differ."""
    (first, content), *others = files.values()
    for listed, other in others:
        if other.category.id != content.category.id:
            raise DataError(
                f"{first} has persons as category {content.category}, {listed} as"
                f" {other.category}; give both the same id, or choose one with"
                " config.data.keypoints.category."
            )
    return content.category


def _persons(downloads: Downloads, listed: str, split: str, content: KeypointFile) -> list[Item]:
    """Returns the records of an annotated split; of training, those with a sample."""
    images = [
        image
        for image in content.images
        if split != "train" or any(map(is_sample, content.persons[image["id"]]))
    ]
    if not content.images:
        raise DataError(f"{listed} lists no images; those of {split} are needed.")
    if not images:
        count = sum(map(len, content.persons.values()))
        raise DataError(
            f"{listed} has no sample of category {content.category}: none of the {count}"
            f" annotations in its {len(content.images)} images has a labeled joint, a box"
            " and an area above 0, and is no crowd. See config.data.keypoints.category."
            + "".join(f" {note}." for note in content.notes)
        )
    return _items(downloads, listed, split, images, content.persons, content.category)


def _listed_side(value: Any) -> int:
    """Returns the height or width that the JSON gives an image; 0 where it gives none."""
    return int(value) if is_number(value) and value == int(value) and 0 < value < 2**31 else 0


def _items(
    downloads: Downloads,
    listed: str,
    split: str,
    images: Sequence[Mapping[str, Any]],
    persons: Mapping[int, Sequence[Person]],
    category: Category,
) -> list[Item]:
    files = CocoImages(downloads, split, listed)
    paths = [files.path(image["file_name"]) for image in images]
    first: dict[str, str] = {}
    for path, image in zip(paths, images, strict=True):
        if path in first:
            raise DataError(
                f"{listed} lists {first[path]} and {image['file_name']}, which are both {path};"
                " list each image once."
            )
        first[path] = image["file_name"]
    items = []
    for image, path, name in zip(images, paths, files.names(paths), strict=True):
        annotations = persons.get(image["id"], [])
        if len(annotations) > MAX_PERSONS:
            raise DataError(
                f"{listed} has {len(annotations)} annotations of {path}, and {MAX_PERSONS} is the"
                " most; remove the wrong ones."
            )
        more = {
            "image_id": image["id"],
            "annotations": annotations,
            "samples": sum(map(is_sample, annotations)),
            "category": {"id": category.id, "name": category.name},
            "size": [_listed_side(image.get(side)) for side in ("height", "width")],
        }
        items.append(Item(name, path, more=more))
    return items


coco_keypoints = partial(
    CocoKeypointsBuilder,
    name="coco_keypoints",
    homepage="https://cocodataset.org",
    counts={"train": 149813, "val": 6352},
    counted="persons",
    storages=("files",),
    shard_size=1024,
)
