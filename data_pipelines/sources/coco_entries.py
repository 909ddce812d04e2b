"""Validates single annotations of COCO keypoint files: ids, boxes, areas and keypoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.errors import DataError

MAX_ID = 2**63 - 1
"""Maximum id: that of a 64-bit integer."""
MAX_PERSONS = 10_000
"""Maximum number of annotations of one image; COCO has up to 20."""
_MAX_EXACT_FLOAT = 2**53  # above, floats skip integers
_MAX_LISTED = 3
Person = dict[str, Any]


@dataclass
class Notes:
    """Collects harmless findings, to report each once with its count and first entries.

    Attributes:
      file: name of the file, for the text.
    """

    file: str
    _entries: dict[str, list[str]] = field(default_factory=dict)

    def add(self, text: str, entry: str) -> None:
        """Adds an entry to a finding, a sentence with a placeholder {count}."""
        self._entries.setdefault(text, []).append(entry)

    def lines(self) -> list[str]:
        """Returns one line per finding."""
        return [
            f"{self.file}: {text.format(count=len(entries))}: {', '.join(entries[:_MAX_LISTED])}"
            + (", ..." if len(entries) > _MAX_LISTED else "")
            for text, entries in self._entries.items()
        ]


def parse_id(value: Any, location: str, field: str = "id") -> int:
    """Returns an id in 0..2**63-1 as an integer; integral floats below 2**53 are accepted.

    Raises:
      DataError: another value; names its location and field.
    """
    if value is None:
        raise DataError(f"{location} has no {field}; it must be an integer.")
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT_FLOAT:
        value, is_integer = int(value), True
    if not is_integer:
        raise DataError(f"{location}: {field} must be an integer; got {value!r:.60}.")
    if not 0 <= value <= MAX_ID:
        raise DataError(f"{location}: {field} must lie in 0..{MAX_ID}; got {value!s:.40}.")
    return value


def is_number(value: Any) -> bool:
    """Returns whether a JSON value is a number that is finite as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of 400 digits
        return False


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Returns whether a JSON value is a list of finite numbers, of length `count` if given."""
    if not isinstance(values, list) or count not in (None, len(values)):
        return False
    if not {type(value) for value in values} <= {int, float}:
        return False
    try:
        return math.isfinite(math.fsum(values))  # one call: COCO has millions of numbers
    except (OverflowError, ValueError):  # an integer of 400 digits; infinities of both signs
        return False


def is_labeled(flag: float) -> bool:
    """Returns whether a keypoint flag marks a labeled joint: 1 and 2 do, 0 and -1 do not."""
    return flag > 0


def has_labels(person: Mapping[str, Any]) -> bool:
    """Returns whether a joint of an annotation is labeled."""
    return any(map(is_labeled, person["keypoints"][2::3]))


def is_sample(person: Mapping[str, Any]) -> bool:
    """Returns whether an annotation is a sample: a single person with a labeled joint."""
    _, _, width, height = person["bbox"]
    is_single = not person.get("iscrowd", 0) and person["area"] > 0
    return bool(has_labels(person) and is_single and width > 0 and height > 0)


def is_normalized(box: Sequence[float]) -> bool:
    """Returns whether a box seems to be given as fractions of the image's size."""
    return all(0 <= value <= 1 for value in box) and max(box[2:]) > 0


def parse_person(entry: Mapping[str, Any], location: str, notes: Notes) -> Person:
    """Returns the validated fields of an annotation that training and evaluation read.

    Raises:
      DataError: a field is invalid; names its location.
    """
    person: Person = {}
    for name in ("id", "image_id"):
        person[name] = parse_id(entry.get(name), location, name)
        note_float_id(entry.get(name), f"annotation {person['id']}", notes)
    label = f"annotation {person['id']}"
    person["bbox"] = _parse_box(entry.get("bbox"), location)
    person["area"] = _parse_area(entry, person["bbox"], location, label, notes)
    crowd = entry.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise DataError(f"{location}: iscrowd must be 0 or 1; got {crowd!r:.60}.")
    person["iscrowd"] = int(crowd)
    person["keypoints"] = _parse_keypoints(entry.get("keypoints", []), location, label, notes)
    person["num_keypoints"] = sum(map(is_labeled, person["keypoints"][2::3]))
    if not has_labels(person) or crowd:
        return person
    _, _, width, height = person["bbox"]
    if not (person["area"] > 0 and width > 0 and height > 0):
        notes.add("{count} persons with labeled joints have a box or area of 0: no samples", label)
    _check_not_normalized(person, location)
    if person["area"] > 1.5 * max(width * height, 1):
        notes.add("{count} areas exceed width x height of their box, which raises scores", label)
    return person


def note_float_id(value: Any, label: str, notes: Notes) -> None:
    """Notes an id that is written as a float."""
    if isinstance(value, float):
        notes.add("{count} ids are written as floats, and are read as integers", label)


def _parse_box(box: Any, location: str) -> list[float]:
    if not are_numbers(box, 4):
        raise DataError(f"{location}: bbox must be x, y, w, h in pixels; got {box!r:.60}.")
    if min(box[2:]) < 0:
        raise DataError(
            f"{location}: bbox must be x, y, w, h in pixels; got {box!r:.60} with a negative width"
            " or height."
        )
    return list(box)


def _parse_area(
    entry: Mapping[str, Any], box: Sequence[float], location: str, label: str, notes: Notes
) -> float:
    area = entry.get("area")
    if area is None:
        notes.add("{count} annotations have no area; width x height of the box is used", label)
        return float(box[2] * box[3])
    if not are_numbers([area], 1) or area < 0:
        raise DataError(
            f"{location}: area must be in square pixels; got {area!r:.60}. Correct or remove it."
        )
    if 0 < area <= 1 and box[2] * box[3] > 100:
        raise DataError(
            f"{location}: area must be in square pixels; got {area} for a box of {box[2]:g} x"
            f" {box[3]:g} pixels, as if it were a fraction of the image."
        )
    return area


def _parse_keypoints(keypoints: Any, location: str, label: str, notes: Notes) -> list[float]:
    if not are_numbers(keypoints) or len(keypoints) % 3:
        raise DataError(
            f"{location}: keypoints must be a flat list of finite x, y, v for each joint; got"
            f" {str(keypoints)[:60]}."
        )
    flags = keypoints[2::3]
    invalid = [flag for flag in flags if flag not in (-1, 0, 1, 2)]
    if invalid:
        raise DataError(
            f"{location}: keypoint flags must be 0 (not labeled), 1 (hidden) or 2 (visible); got"
            f" {invalid[0]}."
        )
    if -1 in flags:
        notes.add("{count} annotations have keypoint flags of -1, read as not labeled", label)
    parsed = list(keypoints)
    parsed[2::3] = [max(0, int(flag)) for flag in flags]
    return parsed


def _check_not_normalized(person: Person, location: str) -> None:
    box = person["bbox"]
    remedy = "Multiply x by the image's width and y by its height."
    if is_normalized(box):
        raise DataError(f"{location}: bbox must be in pixels; got {box}, in 0..1. {remedy}")
    xyv = zip(*(person["keypoints"][n::3] for n in range(3)), strict=True)
    starts_inside = box[0] > 1 or box[1] > 1
    if starts_inside and all(0 <= x <= 1 and 0 <= y <= 1 for x, y, v in xyv if v > 0):
        raise DataError(
            f"{location}: keypoints must be in pixels, as the bbox {box}; got keypoints in 0..1."
            f" {remedy}"
        )
