"""Reads detected boxes in the format of COCO results."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.files.json import read_json
from data_pipelines.files.retry import bucket_errors
from data_pipelines.sources.coco_entries import are_numbers, is_normalized, is_number, parse_id
from data_pipelines.sources.coco_file import Category
from gsto_jax.storage import error_reason

Detection = dict[str, Any]
_FIELDS = "image_id, category_id, bbox (x, y, w, h in pixels) and score"


def read_detections(
    path: Path, category: Category, records: Mapping[int, int], split: str
) -> tuple[list[tuple[int, Detection]], list[str]]:
    """Reads a JSON list of image_id, category_id, bbox (x, y, w, h in pixels) and score.

    `records` maps image ids to record indices of a split.

    Returns:
      Record index and detection of each box of the category in one of the images, in their order,
      and messages about boxes left out.

    Raises:
      DataError: the file cannot be read, an entry is invalid, or no box is left.
    """
    try:
        with bucket_errors(path):
            data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the detections {path}: {error_reason(error)}.") from None
    entries = read_json(data, path)
    if not isinstance(entries, list):
        raise DataError(f"{path} must be a list of {_FIELDS}; got {type(entries).__name__}.")
    boxes = [_parse_detection(entry, f"{path}: entry {n}") for n, entry in enumerate(entries)]
    if boxes and all(is_normalized(box["bbox"]) for box in boxes):
        raise DataError(
            f"{path}: boxes must be in pixels; all {len(boxes)} lie in 0..1, such as"
            f" {boxes[0]['bbox']} of entry 0. Multiply x and w by the image's width, y and h by its"
            " height."
        )
    of_category = [box for box in boxes if box["category_id"] == category.id]
    usable = [(records[box["image_id"]], box) for box in of_category if box["image_id"] in records]
    other_ids = Counter(box["category_id"] for box in boxes if box["category_id"] != category.id)
    unlisted = {box["image_id"] for box in of_category if box["image_id"] not in records}
    notes = []
    if other_ids:
        listed = sorted(other_ids.items())[:5]
        notes.append(", ".join(f"{count} of category_id {n}" for n, count in listed))
    if unlisted:
        count = len(of_category) - len(usable)
        notes.append(f"{count} of images that {split} lacks, such as image_id {min(unlisted)}")
    if not usable:
        raise DataError(
            f"{path} has no box of category {category} in an image of {split}:"
            f" {'; '.join(notes) or 'it is empty'}. Use the category_id and image_id of the"
            " annotations."
        )
    if notes:
        notes = [f"{path.name}: {len(usable)} of {len(boxes)} boxes; left out: {'; '.join(notes)}"]
    return usable, notes


def _parse_detection(entry: Any, location: str) -> Detection:
    if not isinstance(entry, dict):
        raise DataError(f"{location} must have {_FIELDS}; got {entry!r:.60}.")
    ids = {
        field: parse_id(entry.get(field), location, field) for field in ("image_id", "category_id")
    }
    box, score = entry.get("bbox"), entry.get("score")
    if not isinstance(box, list) or not are_numbers(box, 4):
        raise DataError(f"{location}: bbox must be x, y, w, h in pixels; got {box!r:.60}.")
    if min(box[2:]) <= 0:
        raise DataError(f"{location}: bbox must have a width and height; got {box}. Remove it.")
    if not is_number(score):
        raise DataError(f"{location}: score must be a number; got {score!r:.60}.")
    return {**ids, "bbox": box, "score": score}
