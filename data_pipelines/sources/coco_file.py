"""Reads COCO keypoint files: images, categories, and the persons of one category."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.sources.coco_entries import Notes, Person, check_person, note_float, parse_id


@dataclass(frozen=True)
class Category:
    """A category of a COCO file.

    Attributes:
      id: its number, which detections and results repeat.
      name: in the file.
      joints: names of its keypoints; empty where the file lists none.
    """

    id: int
    name: str
    joints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name!r} (id {self.id})"

    def is_called(self, setting: str) -> bool:
        """Returns whether a setting names this category, by its name or id."""
        return setting in (self.name, str(self.id))


@dataclass(frozen=True)
class KeypointFile:
    """The checked content of a COCO keypoint file.

    Attributes:
      category: of all persons here.
      images: entries with an integer `id` and a `file_name`, in the order of their ids.
      persons: annotations of the category, by image id.
      notes: harmless findings, a sentence each.
    """

    category: Category
    images: list[dict[str, Any]]
    persons: dict[int, list[Person]]
    notes: list[str]


def read_keypoint_file(
    content: Any, name: str, wanted: str = "", joints: Sequence[str] = ()
) -> KeypointFile:
    """Checks a COCO keypoint file.

    Args:
      content: the parsed JSON.
      name: of the file, for messages.
      wanted: name or id of the category; "": see `choose_category`.
      joints: names of the configured joints; empty: any number.

    Raises:
      DataError: an entry that cannot be used; names it and the remedy.
    """
    images, notes = read_image_list(content, name)
    annotations = _entries(content, "annotations", name)
    categories = _categories(content, annotations, name)
    category = choose_category(categories, wanted, name)
    if category.joints and joints:
        _check_joint_names(category, joints, name)
    persons: dict[int, list[Person]] = {image["id"]: [] for image in images}
    first: dict[int, int] = {}
    lacking: list[Person] = []
    others: Counter[Category] = Counter()
    for number, entry in enumerate(annotations):
        place = f"{name}: annotation {entry.get('id')!r:.40} (entry {number})"
        of_entry = _category_of(entry, categories, place)
        if of_entry != category:
            others[of_entry] += 1
            continue
        person = check_person(entry, place, notes) | {"category_id": category.id}
        if person["id"] in first:
            raise DataError(
                f"{place} has the id of entry {first[person['id']]}; give each its own."
            )
        first[person["id"]] = number
        if not person["keypoints"]:
            lacking.append(person)
        if person["image_id"] in persons:
            persons[person["image_id"]].append(person)
        else:
            owner = f"annotation {person['id']} of image_id {person['image_id']}"
            notes.add("{count} annotations of images that it does not list are left out", owner)
    if lacking and len(lacking) == len(first):
        raise DataError(
            f"{name}: annotation {lacking[0]['id']} has no keypoints, nor has any other of category"
            f" {category}; is it the instances file? person_keypoints_*.json is needed."
        )
    _add_keypoints(lacking, joints or category.joints, persons, notes)
    _check_lengths(persons.values(), joints, name)
    lines = notes.lines()
    if others:
        counts = ", ".join(f"{count} of {other}" for other, count in others.items())
        lines.append(f"{name}: persons are category {category}; left out: {counts}")
    return KeypointFile(category, images, persons, lines)


def read_image_list(content: Any, name: str) -> tuple[list[dict[str, Any]], Notes]:
    """Checks the images of a COCO file.

    Args:
      content: the parsed JSON.
      name: of the file, for messages.

    Returns:
      The entries in the order of their ids, and notes on them.

    Raises:
      DataError: an entry without file, or whose id is wrong or that of another; names it.
    """
    notes = Notes(name)
    by_id: dict[Any, str] = {}
    by_file: dict[Any, str] = {}
    images = []
    for number, image in enumerate(_entries(content, "images", name)):
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not file_name.strip():
            raise DataError(
                f"{name}: entry {number} of images has the file_name {file_name!r:.60}; give the"
                " image's file."
            )
        place = f"{name}: image {file_name!r} (entry {number})"
        image_id = parse_id(image.get("id"), place)
        note_float(image.get("id"), f"image {file_name}", notes)
        for value, others, kind in ((image_id, by_id, "id"), (file_name, by_file, "file_name")):
            if value in others:
                raise DataError(
                    f"{place} has the {kind} of {others[value]}; give each image its own."
                )
            others[value] = f"{file_name!r} (entry {number})"
        images.append({**image, "id": image_id})
    return sorted(images, key=lambda image: image["id"]), notes


def choose_category(categories: Sequence[Category], wanted: str, name: str) -> Category:
    """Returns the category whose keypoints are learned.

    Args:
      categories: of the file.
      wanted: name or id; "": the only category with keypoints, or else "person".
      name: of the file, for messages.

    Raises:
      DataError: none or several fit; lists them.
    """
    listing = ", ".join(map(str, categories))
    remedy = "set config.data.keypoints.category to the name or id of one"
    if wanted:
        matches = [category for category in categories if category.is_called(wanted)]
        if len(matches) != 1:
            raise DataError(
                f"{name} has {len(matches) or 'no'} categories called {wanted!r}, which"
                f" config.data.keypoints.category asks for; it has {listing}: {remedy}."
            )
        return matches[0]
    candidates = [category for category in categories if category.joints] or list(categories)
    if len(candidates) > 1:
        candidates = [x for x in candidates if x.name.casefold() == "person"]
    if len(candidates) != 1:
        raise DataError(f"{name} has several categories, {listing}: {remedy}.")
    return candidates[0]


def _entries(content: Any, kind: str, name: str) -> list[Mapping[str, Any]]:
    entries = content.get(kind) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{name} is no file of COCO keypoints: its list of {kind} is missing.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(
                f"{name} is no file of COCO keypoints: entry {number} of {kind} is {entry!r:.60}."
            )
    return entries


def _categories(
    content: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], name: str
) -> list[Category]:
    """Returns the listed categories, or those that the annotations use."""
    entries = _entries(content, "categories", name) if content.get("categories") else []
    categories = []
    for number, entry in enumerate(entries):
        place = f"{name}: category {entry.get('name')!r} (entry {number})"
        joints = entry.get("keypoints") or ()
        if not isinstance(joints, list | tuple) or not all(isinstance(x, str) for x in joints):
            raise DataError(f"{place} has the keypoints {joints!r:.60}; a list of names is needed.")
        number = parse_id(entry.get("id"), place)
        categories.append(Category(number, str(entry.get("name", number)), tuple(joints)))
    repeated = [key for key, count in Counter(x.id for x in categories).items() if count > 1]
    if repeated:
        raise DataError(f"{name} has two categories of id {repeated[0]}; give each its own.")
    if categories:
        return categories
    used = {
        parse_id(entry["category_id"], f"{name}: annotation entry {n}", "category_id")
        for n, entry in enumerate(annotations)
        if entry.get("category_id") is not None
    }
    names = {n: "person" if len(used) == 1 or n == 1 else f"category {n}" for n in used or {1}}
    return [Category(n, text) for n, text in sorted(names.items())]


def _check_joint_names(category: Category, joints: Sequence[str], name: str) -> None:
    theirs, ours = list(category.joints), list(joints)
    if len(theirs) != len(ours):
        raise DataError(
            f"{name}: category {category} has {len(theirs)} keypoints, config.data.keypoints.names"
            f" {len(ours)}; describe the file's keypoints there, or choose another category."
        )
    plain = [[re.sub(r"[\W_]", "", joint.casefold()) for joint in each] for each in (theirs, ours)]
    if plain[0] != plain[1] and sorted(plain[0]) == sorted(plain[1]):
        n = next(n for n, (a, b) in enumerate(zip(*plain, strict=True)) if a != b)
        raise DataError(
            f"{name}: keypoint {n} of category {category} is {theirs[n]}, and {ours[n]} in"
            " config.data.keypoints.names; give names, flip_pairs, skeleton and sigmas in the"
            " file's order."
        )


def _check_lengths(persons: Iterable[Sequence[Person]], joints: Sequence[str], name: str) -> None:
    expected = len(joints)
    for person in (person for each in persons for person in each):
        count = len(person["keypoints"]) // 3
        expected = expected or count
        if count != expected:
            owner = "config.data.keypoints.names has" if joints else "others have"
            raise DataError(
                f"{name}: annotation {person['id']} has {count} joints, {owner} {expected}; give"
                " x, y, v for each joint, 0, 0, 0 where it is not labeled."
            )


def _category_of(entry: Mapping[str, Any], categories: Sequence[Category], place: str) -> Category:
    if entry.get("category_id") is None and len(categories) == 1:
        return categories[0]
    category_id = parse_id(entry.get("category_id"), place, "category_id")
    matches = [category for category in categories if category.id == category_id]
    if not matches:
        raise DataError(
            f"{place} has the category_id {category_id}, which the file does not list; it has"
            f" {', '.join(map(str, categories))}."
        )
    return matches[0]


def _add_keypoints(
    lacking: Sequence[Person],
    joints: Sequence[str],
    persons: Mapping[int, Sequence[Person]],
    notes: Notes,
) -> None:
    """Gives persons without keypoints as many as the others have, none of them labeled."""
    lengths = [len(p["keypoints"]) for each in persons.values() for p in each]
    length = 3 * len(joints) or max(lengths, default=0)
    for person in lacking:
        person["keypoints"] = [0] * length
        finding = "{count} annotations have no keypoints, and count as persons without labels"
        notes.add(finding, f"annotation {person['id']}")
