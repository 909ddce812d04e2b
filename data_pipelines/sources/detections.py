"""Reads boxes of a detector in the form of COCO's results."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.files.json import read_json
from data_pipelines.sources.coco_entries import are_numbers, is_normalized, is_number, parse_id
from data_pipelines.sources.coco_file import Category

Detection = dict[str, Any]


def read_detections(
    path: Path, category: Category, of_image: Mapping[int, int], split: str
) -> tuple[list[tuple[int, Detection]], list[str]]:
    """Reads a file of detections.

    Args:
      path: JSON: a list of image_id, category_id, bbox (x, y, w, h in pixels) and score.
      category: of the boxes to keep.
      of_image: number of the record by image id.
      split: of those records, for messages.

    Returns:
      Record and detection for each box of the category in one of the images, in their order; and
      what is left out, in words.

    Raises:
      DataError: the file cannot be read, an entry cannot be used, or no box is left; names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the detections {path}: {error.strerror}.") from None
    entries = read_json(data, path)
    if not isinstance(entries, list):
        raise DataError(
            f"{path} holds no detections: a list of image_id, category_id, bbox (x, y, w, h) and"
            " score is needed."
        )
    boxes = [_checked(entry, f"{path}: entry {n}") for n, entry in enumerate(entries)]
    if boxes and all(is_normalized(box["bbox"]) for box in boxes):
        raise DataError(
            f"{path}: all {len(boxes)} boxes lie in 0..1, such as {boxes[0]['bbox']} of entry 0;"
            " multiply x and w by the image's width, y and h by its height."
        )
    of_category = [box for box in boxes if box["category_id"] == category.id]
    kept = [(of_image[x["image_id"]], x) for x in of_category if x["image_id"] in of_image]
    others = Counter(box["category_id"] for box in boxes if box["category_id"] != category.id)
    listing = ", ".join(f"{count} of category_id {n}" for n, count in sorted(others.items())[:5])
    unlisted = {x["image_id"] for x in of_category if x["image_id"] not in of_image}
    notes = [listing] if others else []
    if unlisted:
        count = len(of_category) - len(kept)
        notes.append(f"{count} of images that {split} lacks, such as image_id {min(unlisted)}")
    if not kept:
        raise DataError(
            f"{path} has no box of category {category} in an image of {split}:"
            f" {'; '.join(notes) or 'it is empty'}. Its category_id and image_id are those of the"
            " annotations."
        )
    if notes:
        notes = [f"{path.name}: {len(kept)} of {len(boxes)} boxes; left out: {'; '.join(notes)}"]
    return kept, notes


def _checked(entry: Any, place: str) -> Detection:
    if not isinstance(entry, dict):
        raise DataError(
            f"{place} is no detection: image_id, category_id, bbox and score are needed."
        )
    ids = {kind: parse_id(entry.get(kind), place, kind) for kind in ("image_id", "category_id")}
    box, score = entry.get("bbox"), entry.get("score")
    if not isinstance(box, list) or not are_numbers(box, 4):
        raise DataError(f"{place} has the bbox {box!r:.60}; x, y, w, h in pixels are needed.")
    if min(box[2:]) <= 0:
        raise DataError(f"{place} has the bbox {box}, without width or height; remove it.")
    if not is_number(score):
        raise DataError(f"{place} has the score {score!r:.60}; a number is needed.")
    return {**ids, "bbox": box, "score": score}
