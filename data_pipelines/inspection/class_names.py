"""Reads class names, and their ids or colors, from the files that accompany labels."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.files.disk import decode_text
from data_pipelines.files.json import read_json
from data_pipelines.labels import Color

_STEMS = re.compile(
    r"_?(class(es)?|label|category|categories|color|colour)s?[_-]?"
    r"(names?|colou?rs?|map|dict|list|s)?|codes|names|(obj|dataset|palette)",
    re.IGNORECASE,
)
_SUFFIXES = (".json", ".txt", ".csv", ".tsv", ".names")
_SEPARATORS = re.compile(r"[,;:\t ]+")
_LABELME_IGNORE = "__ignore__"
"""First line of labelme's labels.txt, before the class of id 0."""
_MAX_BYTES = 2**20
"""A larger file has no class names."""
_KEYS = ("classes", "categories", "labels", "names", "class_names", "items")
_NAME_KEYS = ("name", "label", "class", "title", "readable")
_ID_KEYS = ("id", "value", "index", "labelId", "classId", "trainId")
_COLOR_KEYS = ("color", "colour", "rgb", "color_rgb")


@dataclass(frozen=True)
class NamedClass:
    """A class in a file of names.

    Attributes:
      name: its name.
      file_id: its id in the labels; None: its position says it.
      color: its RGB color; None: none.
    """

    name: str
    file_id: int | None = None
    color: Color | None = None


@dataclass(frozen=True)
class NamesFile:
    """The classes that a file lists, in its order."""

    path: Path
    classes: tuple[NamedClass, ...]

    @property
    def has_colors(self) -> bool:
        """Whether each class has a color."""
        return all(entry.color is not None for entry in self.classes)

    def by_id(self, offset: int = 0) -> dict[int, str]:
        """Returns the name of each id; without ids in the file, positions plus an offset."""
        listed = all(entry.file_id is not None for entry in self.classes)
        return {
            (entry.file_id or 0) if listed else position + offset: entry.name
            for position, entry in enumerate(self.classes)
        }


def find_names_files(root: Path, folders: Iterable[Path]) -> list[NamesFile]:
    """Reads the files of class names in the folders of a dataset and in their parents.

    Args:
      root: folder of the dataset.
      folders: folders of labels below it.

    Returns:
      The files that can be read, those with colors or ids first.
    """
    places = dict.fromkeys(
        place
        for folder in (root, *folders)
        for place in (folder, *folder.parents)
        if place == root or root in place.parents
    )
    files = []
    for place in places:
        for path in sorted(place.iterdir()):
            if path.suffix.lower() not in _SUFFIXES or not _STEMS.fullmatch(path.stem):
                continue
            if path.is_file() and (classes := _read_classes(path)):
                files.append(NamesFile(path, classes))
    return sorted(files, key=lambda file: -sum(entry.color is not None for entry in file.classes))


def listed_colors(files: Sequence[NamesFile]) -> list[Color]:
    """Returns the colors of the first file that has a color for each class."""
    file = next((file for file in files if file.has_colors), None)
    return [entry.color for entry in file.classes if entry.color] if file else []


def _read_classes(path: Path) -> tuple[NamedClass, ...]:
    """Returns the classes of a file, or none if it has another content."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return ()
        data = path.read_bytes()
        if path.suffix.lower() == ".json":
            classes = list(_from_json(read_json(data, path)))
        else:
            classes = _from_lines(decode_text(data, path).splitlines())
    except (OSError, DataError, TypeError, ValueError, LookupError, OverflowError):
        return ()
    names = [entry.name for entry in classes]
    if len(names) < 2 or len(set(names)) < len(names) or max(map(len, names)) > 60:
        return ()
    return tuple(classes)


def _from_json(value: Any) -> Iterable[NamedClass]:
    if isinstance(value, Mapping):
        for key in _KEYS:
            if isinstance(value.get(key), list | dict):
                return _from_json(value[key])
        if all(isinstance(inner, str) for inner in value.values()):  # name by id
            return [NamedClass(name, int(key)) for key, name in value.items()]
        if all(isinstance(inner, int) for inner in value.values()):  # id by name
            return [NamedClass(name, number) for name, number in value.items()]
        if all(isinstance(inner, list) for inner in value.values()):  # color by name
            return [NamedClass(name, None, _rgb(inner)) for name, inner in value.items()]
        return [_from_object({"id": int(key), **inner}) for key, inner in value.items()]
    if not isinstance(value, list):
        return ()
    return [NamedClass(x.strip()) if isinstance(x, str) else _from_object(x) for x in value]


def _from_object(entry: Mapping[str, Any]) -> NamedClass:
    def first(keys: Sequence[str]) -> Any:
        return next((entry[key] for key in keys if key in entry), None)

    number, color = first(_ID_KEYS), first(_COLOR_KEYS)
    return NamedClass(
        str(first(_NAME_KEYS)).strip(),
        None if number is None else int(number),
        None if color is None else _rgb(color),
    )


def _rgb(value: Any) -> Color:
    if isinstance(value, str):
        text = value.lstrip("#")
        return int(text[:2], 16), int(text[2:4], 16), int(text[4:6], 16)
    red, green, blue = (int(channel) for channel in value[:3])
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"a color must lie in 0..255; got {value}")
    return red, green, blue


def _from_lines(lines: Iterable[str]) -> list[NamedClass]:
    entries = []
    for line in lines:
        text = line.strip().strip("\ufeff")
        if text and not text.startswith("#"):
            entries.append(_from_line(text))
    # The heading of a table has no numbers, unlike the lines below it.
    if len(entries) > 2 and entries[0].is_bare and not any(e.is_bare for e in entries[1:]):
        del entries[0]
    if entries and entries[0].named == NamedClass(_LABELME_IGNORE):
        del entries[0]
    return [entry.named for entry in entries if entry.named.name]


@dataclass(frozen=True)
class _Line:
    named: NamedClass
    is_bare: bool
    """Whether it is a name alone."""


def _from_line(text: str) -> _Line:
    """Parses "NAME", "ID NAME", "NAME ID", "R G B NAME", "NAME R G B" or "ID NAME R G B"."""
    fields = [part.strip().strip("\"'") for part in _SEPARATORS.split(text) if part.strip()]
    first = next((n for n, part in enumerate(fields) if not part.isdecimal()), len(fields))
    last = len(fields)
    while last > first and fields[last - 1].isdecimal():
        last -= 1
    leading, trailing = fields[:first], fields[last:]
    if len(leading) > 3 or len(trailing) > 3:
        leading, trailing = leading[:1], (leading[1:] + trailing)[:3]
    color: Color | None = None
    number: int | None = None
    for numbers in (leading, trailing):
        if len(numbers) == 3:
            color = _rgb(numbers)
        elif len(numbers) == 1:
            number = int(numbers[0])
    words = fields[first:last]
    name = " ".join(words)
    if name and not (leading or trailing):
        name = text.strip("\"'")
    return _Line(NamedClass(name, number, color), not (leading or trailing))
