"""Reads the segmentations of COCO files."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.annotations.shapes import AnnotatedImage, Annotations, Kind, Shape, Size
from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few
from data_pipelines.files.json import read_json
from data_pipelines.files.retry import read_bytes
from data_pipelines.sources.coco_entries import are_numbers, parse_id
from data_pipelines.sources.coco_file import read_entries, read_image_list


def read_coco(path: Path) -> Annotations:
    """Reads a COCO file of polygons or run-length masks.

    Raises:
      DataError: not COCO JSON, an entry is invalid, or there is no segmentation at all.
    """
    data, name = read_bytes(path), str(path)
    content = read_json(data, name)
    images, notes = read_image_list(content, name)
    categories = _read_categories(content, name)
    shapes: dict[int, list[Shape]] = {image["id"]: [] for image in images}
    ids: set[Any] = set()
    without = 0
    entries = read_entries(content, "annotations", name)
    if images and not entries:
        raise DataError(
            f"{name} has {len(images)} images and no annotation. Export the annotations too."
        )
    for number, entry in enumerate(entries):
        location = f"{name}: annotation {entry.get('id')!r:.40} (entry {number})"
        label = f"annotation {entry.get('id')!r:.40}"
        image_id = parse_id(entry.get("image_id"), location, "image_id")
        category = _category_of(entry, categories, location)
        if image_id not in shapes:
            text = "{count} annotations of images that it does not list are left out"
            notes.add(text, f"{label} of image_id {image_id}")
            continue
        key = str(entry.get("id"))
        if key in ids and entry.get("id") is not None:
            notes.add("{count} annotations have the id of an earlier one, and are drawn", label)
        ids.add(key)
        if segmentation := entry.get("segmentation"):
            crowd = _is_crowd(entry, location)
            kind, geometry = _parse_segmentation(segmentation, location)
            shapes[image_id].append(Shape(category, kind, geometry, location, crowd))
        else:
            without += 1
            notes.add("{count} annotations have no segmentation, and are not drawn", label)
    if entries and without == len(entries):
        raise DataError(
            f"{name} has boxes only: none of its {len(entries)} annotations has a segmentation."
            " Export polygons or masks."
        )
    annotated = tuple(
        AnnotatedImage(
            image["file_name"].replace("\\", "/"),
            _annotated_size(image, name),
            tuple(shapes[image["id"]]),
            f"{name}: image {image['file_name']!r}",
        )
        for image in images
    )
    return Annotations(name, tuple(categories.values()), annotated, zlib.crc32(data), notes)


def _read_categories(content: Mapping[str, Any], name: str) -> dict[int, str]:
    """Returns the names of the categories by id, sorted by id."""
    categories: dict[int, str] = {}
    for number, entry in enumerate(read_entries(content, "categories", name)):
        location = f"{name}: category {entry.get('name')!r:.40} (entry {number})"
        category_id = parse_id(entry.get("id"), location)
        if category_id in categories:
            raise DataError(
                f"{location} has the same id as {categories[category_id]!r}; ids must be unique."
            )
        categories[category_id] = str(entry.get("name", category_id))
    return dict(sorted(categories.items()))


def _category_of(entry: Mapping[str, Any], categories: Mapping[int, str], location: str) -> str:
    category_id = parse_id(entry.get("category_id"), location, "category_id")
    if category_id not in categories:
        listed = first_few([f"{n} ({name})" for n, name in categories.items()]) or "none"
        raise DataError(
            f"{location}: category_id must be one of the file's categories, {listed}; got"
            f" {category_id}."
        )
    return categories[category_id]


def _is_crowd(entry: Mapping[str, Any], location: str) -> bool:
    crowd = entry.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise DataError(f"{location}: iscrowd must be 0 or 1; got {crowd!r:.60}.")
    return bool(crowd)


def _parse_segmentation(segmentation: Any, location: str) -> tuple[Kind, Any]:
    if isinstance(segmentation, dict):
        return "rle", segmentation
    if isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        return "polygons", segmentation
    if are_numbers(segmentation):  # some exporters leave out the list of polygons
        return "polygons", [segmentation]
    raise DataError(
        f"{location}: segmentation must be a list of polygons, or an RLE of size and counts; got"
        f" {segmentation!r:.60}."
    )


def _annotated_size(image: Mapping[str, Any], name: str) -> Size:
    size = [image.get(field) or 0 for field in ("height", "width")]
    if not are_numbers(size) or any(side < 0 or side != int(side) for side in size):
        raise DataError(
            f"{name}: image {image['file_name']!r}: height and width must be integers; got"
            f" {size!r:.60}."
        )
    return int(size[0]), int(size[1])
