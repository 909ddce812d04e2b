"""COCO keypoints: `person_keypoints_*.json`, `image_info_test-dev*.json` and the images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from data_pipelines.builders.builder import Builder, Example, Item, wrong_downloads_error
from data_pipelines.builders.coco_images import CocoImages
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.images import decode_image, format_size, verify_image
from data_pipelines.keypoint_options import Keypoints
from data_pipelines.sources.boxes import is_outside
from data_pipelines.sources.coco_entries import MAX_PERSONS, Person, is_number, is_sample
from data_pipelines.sources.coco_file import (
    Category,
    KeypointFile,
    read_image_list,
    read_keypoint_file,
)
from data_pipelines.sources.image_checks import check_annotated_size


@dataclass(frozen=True, kw_only=True)
class CocoKeypointsBuilder(Builder):
    """Makes one record per image, with all its annotations; a sample is one person of a record.

    Training images without a sample are left out; validation images are not, since detectors find
    persons there too. Test images, which may be absent, have no annotations.

    Attributes:
      keypoints: the configured joints and category; None: any number of joints.
      file_pattern: regular expression of the annotation files, with the group "split".
      expected_files: description of the downloads, for messages.
    """

    keypoints: Keypoints | None = None
    file_pattern: str = r"person_keypoints_(?P<split>train|val)(?:20\d\d)?\.json"
    expected_files: str = (
        "annotations_trainval2017.zip, train2017.zip and val2017.zip, or the folders annotations/"
        " (person_keypoints_train2017.json, ...), train2017/ and val2017/"
    )

    def count(self, items: Sequence[Item]) -> int:
        """Returns the number of samples of some items."""
        return sum(item.extra["samples"] for item in items)

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        files: dict[str, tuple[str, KeypointFile]] = {}
        for match in downloads.match(self.file_pattern):
            split, name = match["split"], match[0]
            if split in files:
                raise DataError(
                    f"{downloads.source} has {files[split][0]} and {name}; keep one of them."
                )
            files[split] = name, self._read(downloads, name)
        if not files:
            raise wrong_downloads_error(downloads, self.expected_files)
        category = _common_category(files)
        items = {
            split: _annotated_items(downloads, name, split, content)
            for split, (name, content) in files.items()
        }
        for match in downloads.match(r"image_info_test-dev(?:20\d\d)?\.json"):
            images, notes = read_image_list(downloads.read_json(match[0]), match[0])
            downloads.notes += notes.lines()
            items["test"] = _make_items(
                downloads,
                coco_file=match[0],
                split="test",
                images=images,
                persons={},
                category=category,
            )
        return items

    def _read(self, downloads: Downloads, name: str) -> KeypointFile:
        content = read_keypoint_file(
            self.read_content(downloads, name),
            name,
            category=self.keypoints.category if self.keypoints else "",
            joints=self.keypoints.names if self.keypoints else (),
        )
        downloads.notes += content.notes
        return content

    def read_content(self, downloads: Downloads, name: str) -> Any:
        """Returns an annotation file as COCO keypoints."""
        return downloads.read_json(name)

    def fingerprint(self, item: Item) -> str:
        """See `Builder.fingerprint`."""
        return f"{item.name} {json.dumps(item.extra)}"

    def shared_metadata(self, items: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
        """See `Builder.shared_metadata`: the category."""
        return next(item.extra["category"] for records in items.values() for item in records)

    def describe_conflict(self, shared_metadata: Mapping[str, Any]) -> str:
        """See `Builder.describe_conflict`."""
        category = Category(shared_metadata["id"], shared_metadata["name"])
        configured = self.keypoints.category if self.keypoints else ""
        if not configured or category.is_called(configured):
            return ""
        return (
            f"persons of category {category}, but config.data.keypoints.category is {configured!r}"
        )

    def side_files(self, items: Mapping[str, Sequence[Item]]) -> dict[str, str]:
        """See `Builder.side_files`: the category; image id and number of samples per record."""
        files = {"category.json": json.dumps(self.shared_metadata(items))}
        for split, records in items.items():
            for name, key in (("samples", "samples"), ("image_ids", "image_id")):
                files[f"{name}-{split}.json"] = json.dumps([item.extra[key] for item in records])
        return files

    def features(self, storage: str) -> dict[str, str]:
        """See `Builder.features`."""
        integers = dict.fromkeys(("image_id", "height", "width"), "int")
        return {"name": "text", "image": "jpeg", "annotations": "text"} | integers

    def example(self, downloads: Downloads, item: Item, storage: str) -> Example:
        """See `Builder.example`."""
        data, annotations = downloads.read(item.image), item.extra["annotations"]
        verify_image(data, item.image)
        decoded = decode_image(data, item.image, self.decode_options)
        size = tuple(item.extra["size"])
        check_annotated_size(item.image, decoded.header, self.decode_options, size)
        for person in filter(is_sample, annotations):
            if is_outside(person["bbox"], decoded.pixels.shape):
                raise DataError(
                    f"Annotation {person['id']} of {item.image} has a box outside its image of"
                    f" {format_size(decoded.pixels)} pixels, {[*map(float, person['bbox'])]}. Give"
                    " x, y, w, h in pixels of the image, or remove it."
                )
        return {
            "name": item.name,
            "image": data,
            "image_id": item.extra["image_id"],
            "height": size[0],
            "width": size[1],
            "annotations": json.dumps(annotations, separators=(",", ":")),
        }


def _common_category(files: Mapping[str, tuple[str, KeypointFile]]) -> Category:
    """Returns the category of all files. Raises DataError if their ids differ."""
    (first_name, first), *others = files.values()
    for name, content in others:
        if content.category.id != first.category.id:
            raise DataError(
                f"{first_name} has persons as category {first.category}, {name} as"
                f" {content.category}. Use the same id in both, or choose a category with"
                " config.data.keypoints.category."
            )
    return first.category


def _annotated_items(
    downloads: Downloads, coco_file: str, split: str, content: KeypointFile
) -> list[Item]:
    """Returns the items of an annotated split; of training, those with a sample."""
    images = [
        image
        for image in content.images
        if split != "train" or any(map(is_sample, content.persons[image["id"]]))
    ]
    if not content.images:
        raise DataError(f"{coco_file} lists no images; those of {split} are needed.")
    if not images:
        count = sum(map(len, content.persons.values()))
        raise DataError(
            f"{coco_file} has no sample of category {content.category}: none of the {count}"
            f" annotations in its {len(content.images)} images has a labeled joint, a box"
            "and an area above 0 without being a crowd. See config.data.keypoints.category."
            + "".join(f" {note}." for note in content.notes)
        )
    return _make_items(
        downloads,
        coco_file=coco_file,
        split=split,
        images=images,
        persons=content.persons,
        category=content.category,
    )


def _make_items(
    downloads: Downloads,
    *,
    coco_file: str,
    split: str,
    images: Sequence[Mapping[str, Any]],
    persons: Mapping[int, Sequence[Person]],
    category: Category,
) -> list[Item]:
    files = CocoImages(downloads, split, coco_file)
    paths = [files.path(image["file_name"]) for image in images]
    file_names: dict[str, str] = {}
    for path, image in zip(paths, images, strict=True):
        if path in file_names:
            raise DataError(
                f"{coco_file} lists {file_names[path]} and {image['file_name']}, which are both"
                f" {path}; list each image once."
            )
        file_names[path] = image["file_name"]
    items = []
    for image, path, name in zip(images, paths, files.record_names(paths), strict=True):
        annotations = persons.get(image["id"], [])
        if len(annotations) > MAX_PERSONS:
            raise DataError(
                f"{coco_file} must have at most {MAX_PERSONS} annotations per image; got"
                f" {len(annotations)} of {path}. Remove the wrong ones."
            )
        size = [_annotated_side(image.get(side)) for side in ("height", "width")]
        extra = item_values(image["id"], annotations, category, size)
        items.append(Item(name, path, extra=extra))
    return items


def item_values(
    image_id: int,
    annotations: Sequence[Person],
    category: Category,
    size: Sequence[int] = (0, 0),
) -> dict[str, Any]:
    """Returns `Item.extra` of an image; its size is 0 if the annotations have none."""
    return {
        "image_id": image_id,
        "annotations": annotations,
        "samples": sum(map(is_sample, annotations)),
        "category": {"id": category.id, "name": category.name},
        "size": size,
    }


def _annotated_side(value: Any) -> int:
    """Returns the height or width that a COCO file gives an image; 0 if it gives none."""
    return int(value) if is_number(value) and value == int(value) and 0 < value < 2**31 else 0


coco_keypoints = partial(
    CocoKeypointsBuilder,
    name="coco_keypoints",
    homepage="https://cocodataset.org",
    counts={"train": 149813, "val": 6352},
    unit="persons",
    storages=("files",),
    shard_size=1024,
)
