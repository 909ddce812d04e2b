"""Reads labelme files: a JSON file of shapes for each image."""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.annotations.shapes import AnnotatedImage, Annotations, Kind, Shape
from data_pipelines.errors import DataError
from data_pipelines.files.disk import list_files
from data_pipelines.files.json import read_json
from data_pipelines.files.retry import read_bytes
from data_pipelines.sources.coco_entries import Notes, are_numbers

_POLYGONS = ("polygon", "rectangle", "oriented_rectangle", "rotation")
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


def read_labelme(folder: Path) -> Annotations:
    """Reads the labelme files below a folder.

    Polygons, rectangles, circles and masks are read; points and lines cover no pixel and are left
    out. The image stored in a file (imageData) is not read.

    Raises:
      DataError: there is no JSON file, or one is not of labelme.
    """
    names = [name for name in list_files(folder) if name.lower().endswith(".json")]
    if not names:
        raise DataError(f"{folder} has no labelme file: none ends in .json.")
    notes, checksum, images = Notes(str(folder)), 0, []
    for name in names:
        data = read_bytes(folder / name)
        checksum = zlib.crc32(data, zlib.crc32(name.encode("utf-8", "surrogateescape"), checksum))
        images.append(_parse_file(read_json(data, folder / name), name, folder / name, notes))
    categories = sorted({shape.category for image in images for shape in image.shapes})
    return Annotations(str(folder), tuple(categories), tuple(images), checksum, notes)


def _parse_file(content: Any, name: str, path: Path, notes: Notes) -> AnnotatedImage:
    entries = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            f"{path} is not a labelme file: it must have a list of shapes. Move other JSON files"
            " to another folder."
        )
    image_path = content.get("imagePath") or ""
    size = [content.get(field) or 0 for field in ("imageHeight", "imageWidth")]
    if not isinstance(image_path, str):
        raise DataError(f"{path}: imagePath must be a path; got {image_path!r:.60}.")
    if not all(type(side) is int and side >= 0 for side in size):
        raise DataError(f"{path}: imageHeight and imageWidth must be integers; got {size!r:.60}.")
    shapes = []
    for number, entry in enumerate(entries):
        label = entry.get("label")
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"{path}: label of shape {number} must be a name; got {label!r:.60}.")
        location = f"{path}: shape {number} ({label!r:.40})"
        if parsed := _parse_shape(entry, location, f"shape {number} of {name}", notes):
            shapes.append(Shape(label, *parsed, location))
    image_path, stem = image_path.replace("\\", "/"), name[: -len(".json")]
    return AnnotatedImage(image_path, (size[0], size[1]), tuple(shapes), str(path), stem)


def _parse_shape(
    entry: Mapping[str, Any], location: str, label: str, notes: Notes
) -> tuple[Kind, Any] | None:
    """Returns kind and geometry of a shape; None for one without area."""
    kind = entry.get("shape_type") or "polygon"
    points = entry.get("points")
    if not isinstance(points, list) or not all(are_numbers(point, 2) for point in points):
        raise DataError(
            f"{location}: points must be a list of finite [x, y]; got {str(points)[:60]}."
        )
    if kind == "mask":
        return "bitmap", _parse_mask(entry, points, location)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        return "polygons", [[left, top, right, top, right, bottom, left, bottom]]
    if kind == "circle":
        if len(points) != 2:
            raise DataError(f"{location}: a circle must have 2 points; got {len(points)}.")
        (x, y), edge = points
        return "disk", (x, y, math.hypot(edge[0] - x, edge[1] - y))
    if kind in _POLYGONS:
        return "polygons", [[value for point in points for value in point]]
    if kind not in _WITHOUT_AREA:
        expected = ", ".join((*_POLYGONS, "circle", "mask", *_WITHOUT_AREA))
        raise DataError(f"{location}: shape_type must be one of {expected}; got {kind!r:.60}.")
    notes.add(f"{{count}} shapes of type {kind} have no area, and are not drawn", label)
    return None


def _parse_mask(
    entry: Mapping[str, Any], points: list[list[float]], location: str
) -> tuple[int, int, str]:
    """Returns x and y of a mask's first pixel, and its PNG in base64."""
    text = entry.get("mask")
    if len(points) != 2 or not isinstance(text, str):
        raise DataError(f"{location}: a mask must have 2 points, and a PNG in base64.")
    x, y = points[0]
    if max(abs(x), abs(y)) > 2**31:
        raise DataError(f"{location}: a mask must lie in its image; got {points[0]!r:.60}.")
    return int(x), int(y), text
