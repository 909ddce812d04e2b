"""Reads COCO keypoint files: images, categories, and the persons of one category."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.sources.coco_entries import (
    Notes,
    Person,
    note_float_id,
    parse_id,
    parse_person,
)


@dataclass(frozen=True)
class Category:
    """A category of a COCO file.

    Attributes:
      id: its id, also used by detections and results.
      name: its name.
      joints: names of its keypoints; empty: the file lists none.
    """

    id: int
    name: str
    joints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name!r} (id {self.id})"

    def is_called(self, configured: str) -> bool:
        """Returns whether this category has the configured name or id."""
        return configured in (self.name, str(self.id))


@dataclass(frozen=True)
class KeypointFile:
    """The validated content of a COCO keypoint file.

    Attributes:
      category: category of all persons here.
      images: entries with an integer `id` and a `file_name`, sorted by id.
      persons: annotations of the category, by image id.
      notes: messages about harmless findings.
    """

    category: Category
    images: list[dict[str, Any]]
    persons: dict[int, list[Person]]
    notes: list[str]


def read_keypoint_file(
    content: Any, name: str, category: str = "", joints: Sequence[str] = ()
) -> KeypointFile:
    """Validates the parsed JSON of a COCO keypoint file.

    Args:
      content: the parsed JSON.
      name: name of the file, for messages.
      category: name or id of the category; "": see `choose_category`.
      joints: names of the configured joints; empty: any number.

    Raises:
      DataError: an entry is invalid.
    """
    images, notes = read_image_list(content, name)
    annotations = read_entries(content, "annotations", name)
    categories = _read_categories(content, annotations, name)
    chosen = choose_category(categories, category, name)
    if chosen.joints and joints:
        _check_joint_names(chosen, joints, name)
    persons: dict[int, list[Person]] = {image["id"]: [] for image in images}
    entry_numbers: dict[int, int] = {}
    without_keypoints: list[Person] = []
    left_out: Counter[Category] = Counter()
    for number, entry in enumerate(annotations):
        location = f"{name}: annotation {entry.get('id')!r:.40} (entry {number})"
        entry_category = _category_of_entry(entry, categories, location)
        if entry_category != chosen:
            left_out[entry_category] += 1
            continue
        person = parse_person(entry, location, notes) | {"category_id": chosen.id}
        if person["id"] in entry_numbers:
            raise DataError(
                f"{location} has the same id as entry {entry_numbers[person['id']]}; ids must be"
                " unique."
            )
        entry_numbers[person["id"]] = number
        if not person["keypoints"]:
            without_keypoints.append(person)
        if person["image_id"] in persons:
            persons[person["image_id"]].append(person)
        else:
            label = f"annotation {person['id']} of image_id {person['image_id']}"
            notes.add("{count} annotations of images that it does not list are left out", label)
    if without_keypoints and len(without_keypoints) == len(entry_numbers):
        raise DataError(
            f"{name}: annotation {without_keypoints[0]['id']} has no keypoints, nor has any other"
            f" of category {chosen}. Use person_keypoints_*.json, not the instances file."
        )
    _fill_keypoints(without_keypoints, joints or chosen.joints, persons, notes)
    _check_joint_counts(persons.values(), joints, name)
    lines = notes.lines()
    if left_out:
        counts = ", ".join(f"{count} of {other}" for other, count in left_out.items())
        lines.append(f"{name}: persons are category {chosen}; left out: {counts}")
    return KeypointFile(chosen, images, persons, lines)


def read_image_list(content: Any, name: str) -> tuple[list[dict[str, Any]], Notes]:
    """Returns the validated images of a COCO file, sorted by id, and notes about them.

    Raises:
      DataError: an entry without file, or with an invalid or repeated id.
    """
    notes = Notes(name)
    entries_by_id: dict[Any, str] = {}
    entries_by_file: dict[Any, str] = {}
    images = []
    for number, image in enumerate(read_entries(content, "images", name)):
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not file_name.strip():
            raise DataError(
                f"{name}: file_name of entry {number} of images must be a path; got"
                f" {file_name!r:.60}."
            )
        location = f"{name}: image {file_name!r} (entry {number})"
        image_id = parse_id(image.get("id"), location)
        note_float_id(image.get("id"), f"image {file_name}", notes)
        for field, value, entries in (
            ("id", image_id, entries_by_id),
            ("file_name", file_name, entries_by_file),
        ):
            if value in entries:
                raise DataError(
                    f"{location} has the same {field} as {entries[value]}; every image needs its"
                    f" own {field}."
                )
            entries[value] = f"{file_name!r} (entry {number})"
        images.append({**image, "id": image_id})
    return sorted(images, key=lambda image: image["id"]), notes


def choose_category(categories: Sequence[Category], configured: str, name: str) -> Category:
    """Returns the category whose keypoints are learned.

    It is the one of the configured name or id; without, the only one with keypoints, or "person".

    Raises:
      DataError: no category or several match.
    """
    listed = ", ".join(map(str, categories))
    remedy = "Set config.data.keypoints.category to the name or id of one"
    if configured:
        matches = [category for category in categories if category.is_called(configured)]
        if len(matches) != 1:
            raise DataError(
                f"{name} has {len(matches) or 'no'} categories called {configured!r}, the"
                f" value of config.data.keypoints.category. {remedy} of {listed}."
            )
        return matches[0]
    candidates = [category for category in categories if category.joints] or list(categories)
    if len(candidates) > 1:
        candidates = [x for x in candidates if x.name.casefold() == "person"]
    if len(candidates) != 1:
        raise DataError(f"{name} has several categories, {listed}. {remedy}.")
    return candidates[0]


def read_entries(content: Any, key: str, name: str) -> list[Mapping[str, Any]]:
    """Returns a list of a COCO file. Raises DataError if it is missing or no list of objects."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{name} is not a COCO file: it must have a list of {key}.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{name} is not a COCO file: entry {number} of {key} is {entry!r:.60}.")
    return entries


def _read_categories(
    content: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], name: str
) -> list[Category]:
    """Returns the listed categories, or else those that the annotations use."""
    entries = read_entries(content, "categories", name) if content.get("categories") else []
    categories = []
    for number, entry in enumerate(entries):
        location = f"{name}: category {entry.get('name')!r} (entry {number})"
        joints = entry.get("keypoints") or ()
        if not isinstance(joints, list | tuple) or not all(isinstance(x, str) for x in joints):
            raise DataError(f"{location}: keypoints must be a list of names; got {joints!r:.60}.")
        category_id = parse_id(entry.get("id"), location)
        categories.append(Category(category_id, str(entry.get("name", category_id)), tuple(joints)))
    repeated = [key for key, count in Counter(x.id for x in categories).items() if count > 1]
    if repeated:
        raise DataError(f"{name} has two categories with id {repeated[0]}; ids must be unique.")
    if categories:
        return categories
    ids = {
        parse_id(entry["category_id"], f"{name}: annotation entry {number}", "category_id")
        for number, entry in enumerate(annotations)
        if entry.get("category_id") is not None
    }
    names = {n: "person" if len(ids) == 1 or n == 1 else f"category {n}" for n in ids or {1}}
    return [Category(n, text) for n, text in sorted(names.items())]


def _check_joint_names(category: Category, joints: Sequence[str], name: str) -> None:
    field = "config.data.keypoints.names"
    if len(category.joints) != len(joints):
        raise DataError(
            f"{name}: category {category} has {len(category.joints)} keypoints, {field}"
            f" {len(joints)}. Describe the file's keypoints there, or choose another category."
        )
    plain = [
        [re.sub(r"[\W_]", "", joint.casefold()) for joint in names]
        for names in (category.joints, joints)
    ]
    if plain[0] != plain[1] and sorted(plain[0]) == sorted(plain[1]):
        n = next(n for n, (a, b) in enumerate(zip(*plain, strict=True)) if a != b)
        raise DataError(
            f"{name}: keypoint {n} of category {category} is {category.joints[n]}, and {joints[n]}"
            f" in {field}. List names, flip_pairs, skeleton and sigmas in the file's order."
        )


def _check_joint_counts(
    persons_by_image: Iterable[Sequence[Person]], joints: Sequence[str], name: str
) -> None:
    expected = len(joints)
    for person in (person for persons in persons_by_image for person in persons):
        count = len(person["keypoints"]) // 3
        expected = expected or count
        if count != expected:
            reference = "config.data.keypoints.names has" if joints else "others have"
            raise DataError(
                f"{name}: annotation {person['id']} has {count} joints, {reference} {expected}."
                " Use x, y, v for each joint, and 0, 0, 0 for joints that are not labeled."
            )


def _category_of_entry(
    entry: Mapping[str, Any], categories: Sequence[Category], location: str
) -> Category:
    if entry.get("category_id") is None and len(categories) == 1:
        return categories[0]
    category_id = parse_id(entry.get("category_id"), location, "category_id")
    matches = [category for category in categories if category.id == category_id]
    if not matches:
        raise DataError(
            f"{location}: category_id must be that of {', '.join(map(str, categories))}; got"
            f" {category_id}."
        )
    return matches[0]


def _fill_keypoints(
    without_keypoints: Sequence[Person],
    joints: Sequence[str],
    persons_by_image: Mapping[int, Sequence[Person]],
    notes: Notes,
) -> None:
    """Adds unlabeled keypoints to persons without keypoints."""
    lengths = [len(x["keypoints"]) for persons in persons_by_image.values() for x in persons]
    length = 3 * len(joints) or max(lengths, default=0)
    for person in without_keypoints:
        person["keypoints"] = [0] * length
        text = "{count} annotations have no keypoints, and are read as without labels"
        notes.add(text, f"annotation {person['id']}")
