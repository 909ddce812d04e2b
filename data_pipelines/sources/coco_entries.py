"""Checks single entries of COCO keypoint files: ids, boxes, areas and keypoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.errors import DataError

MAX_ID = 2**63 - 1
"""Largest id that a 64-bit integer holds."""
MAX_PERSONS = 10_000
"""Samples in one image; COCO has up to 20."""
_EXACT_FLOAT = 2**53  # above it, floats skip integers
_LISTED = 3  # entries that a note names
Person = dict[str, Any]


@dataclass
class Notes:
    """Counts of harmless findings, with the first entries of each.

    Attributes:
      file: name of the file, for the text.
    """

    file: str
    _entries: dict[str, list[str]] = field(default_factory=dict)

    def add(self, finding: str, entry: str) -> None:
        """Counts an entry; `finding` is a sentence with a place for the count."""
        self._entries.setdefault(finding, []).append(entry)

    def lines(self) -> list[str]:
        """Returns one sentence a finding."""
        return [
            f"{self.file}: {finding.format(count=len(entries))}: {', '.join(entries[:_LISTED])}"
            + (", ..." if len(entries) > _LISTED else "")
            for finding, entries in self._entries.items()
        ]


def parse_id(value: Any, place: str, kind: str = "id") -> int:
    """Returns an id as an exact integer.

    Args:
      value: as the file has it; a float that is a whole number below 2**53 is one.
      place: the entry, for messages.
      kind: name of the field, such as "image_id".

    Raises:
      DataError: it is missing, no integer, or outside 0..2**63-1.
    """
    if value is None:
        raise DataError(f"{place} has no {kind}; give it an integer.")
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        value, whole = int(value), True
    if not whole:
        shown = repr(value)[:60]
        raise DataError(f"{place} has the {kind} {shown}; ids are integers: write it as one.")
    if not 0 <= value <= MAX_ID:
        raise DataError(
            f"{place} has the {kind} {value!s:.40}; ids lie in 0..{MAX_ID}: number it anew."
        )
    return value


def is_number(value: Any) -> bool:
    """Returns whether a value out of JSON is a finite number that a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of 400 digits
        return False


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Returns whether a value is a list of finite numbers, and of that length."""
    if not isinstance(values, list) or count not in (None, len(values)):
        return False
    if not {type(value) for value in values} <= {int, float}:
        return False
    try:
        return math.isfinite(math.fsum(values))  # quick, as COCO has millions of them
    except (OverflowError, ValueError):  # an integer of 400 digits; infinities of both signs
        return False


def is_labeled(flag: float) -> bool:
    """Returns whether a keypoint flag means a position: 1 and 2 do; 0 and -1 do not."""
    return flag > 0


def has_labels(person: Mapping[str, Any]) -> bool:
    """Returns whether any joint of an annotation is labeled."""
    return any(map(is_labeled, person["keypoints"][2::3]))


def is_sample(person: Mapping[str, Any]) -> bool:
    """Returns whether an annotation makes a sample: one person, with a labeled joint."""
    _, _, width, height = person["bbox"]
    whole = not person.get("iscrowd", 0) and person["area"] > 0
    return bool(has_labels(person) and whole and width > 0 and height > 0)


def is_normalized(box: Sequence[float]) -> bool:
    """Returns whether all numbers of a box lie in 0..1, as shares of the image do."""
    return all(0 <= value <= 1 for value in box) and max(box[2:]) > 0


def check_person(entry: Mapping[str, Any], place: str, notes: Notes) -> Person:
    """Returns a checked annotation with the fields that training and evaluation read."""
    person: Person = {}
    for kind in ("id", "image_id"):
        person[kind] = parse_id(entry.get(kind), place, kind)
        note_float(entry.get(kind), f"annotation {person['id']}", notes)
    called = f"annotation {person['id']}"
    person["bbox"] = _box(entry.get("bbox"), place)
    person["area"] = _area(entry, person["bbox"], place, called, notes)
    crowd = entry.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise DataError(f"{place} has iscrowd {crowd!r:.60}; use 0 or 1.")
    person["iscrowd"] = int(crowd)
    person["keypoints"] = _keypoints(entry.get("keypoints", []), place, called, notes)
    person["num_keypoints"] = sum(map(is_labeled, person["keypoints"][2::3]))
    if not has_labels(person) or crowd:
        return person
    _, _, width, height = person["bbox"]
    if not (person["area"] > 0 and width > 0 and height > 0):
        notes.add("{count} persons with labeled joints have a box or area of 0: no samples", called)
    _check_not_normalized(person, place)
    if person["area"] > 1.5 * max(width * height, 1):
        notes.add("{count} areas exceed width x height of their box, which raises scores", called)
    return person


def note_float(value: Any, called: str, notes: Notes) -> None:
    """Notes an id that is written as a float."""
    if isinstance(value, float):
        notes.add("{count} ids are written as floats, and are read as integers", called)


def _box(box: Any, place: str) -> list[float]:
    if not are_numbers(box, 4):
        raise DataError(f"{place} has the box {box!r:.60}; x, y, w, h in pixels are needed.")
    if min(box[2:]) < 0:
        raise DataError(
            f"{place} has the box {box!r:.60} of negative width or height; x, y, w, h are needed."
        )
    return list(box)


def _area(
    entry: Mapping[str, Any], box: Sequence[float], place: str, called: str, notes: Notes
) -> float:
    area = entry.get("area")
    if area is None:
        notes.add(
            "{count} annotations have no area, and width x height of the box stands for it", called
        )
        return float(box[2] * box[3])
    if not are_numbers([area], 1) or area < 0:
        raise DataError(f"{place} has the area {area!r:.60}; give square pixels, or leave it out.")
    if 0 < area <= 1 and box[2] * box[3] > 100:
        raise DataError(
            f"{place} has the area {area} and a box of {box[2]:g} x {box[3]:g} pixels; give"
            " the area in square pixels, not as a share of the image."
        )
    return area


def _keypoints(keypoints: Any, place: str, called: str, notes: Notes) -> list[float]:
    if not are_numbers(keypoints) or len(keypoints) % 3:
        raise DataError(
            f"{place} has the keypoints {str(keypoints)[:60]}; a flat list of x, y, v for each"
            " joint is needed, all finite numbers."
        )
    flags = keypoints[2::3]
    wrong = [flag for flag in flags if flag not in (-1, 0, 1, 2)]
    if wrong:
        raise DataError(
            f"{place} has the keypoint flag {wrong[0]}; use 0 (not labeled), 1 (hidden)"
            " or 2 (visible)."
        )
    if -1 in flags:
        notes.add(
            "{count} annotations have keypoint flags of -1, which count as not labeled", called
        )
    checked = list(keypoints)
    checked[2::3] = [max(0, int(flag)) for flag in flags]
    return checked


def _check_not_normalized(person: Person, place: str) -> None:
    box, remedy = person["bbox"], "multiply x by the image's width and y by its height"
    if is_normalized(box):
        raise DataError(f"{place} has the box {box}, which lies in 0..1, not in pixels; {remedy}.")
    xyv = zip(*(person["keypoints"][n::3] for n in range(3)), strict=True)
    apart = box[0] > 1 or box[1] > 1
    if apart and all(0 <= x <= 1 and 0 <= y <= 1 for x, y, v in xyv if v > 0):
        raise DataError(f"{place} has keypoints in 0..1, and a box in pixels, {box}; {remedy}.")
