"""Proposes classes: their order, names and colors, and what is ignored."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.inspection.class_names import NamesFile
from data_pipelines.inspection.coding import Coding
from data_pipelines.labels import (
    IGNORE_LABEL,
    Color,
    distinct_colors,
    pack_color,
    unpack_color,
)

MAX_CLASSES = 255
_IGNORE_NAMES = re.compile(
    r"_*(void|ignored?|unlabell?ed|unknown|don'?t[ _]?care|no[ _]?data|undefined|unclassified"
    r"|unannotated|out[ _-]?of[ _-]?roi)(_?(region|label|class))?_*",
    re.IGNORECASE,
)
_VOID_COLOR: Color = (224, 224, 192)
"""The color of borders in PASCAL VOC."""
_MAX_GAP = 2
"""Ids up to this many times their number count as numbered from 0 or 1, with ids left out."""


@dataclass(frozen=True)
class Entry:
    """The meaning of an id or a color in the label files.

    Attributes:
      value: the id, or the color 0xRRGGBB.
      name: name of its class; "": it is ignored.
      reason: why it is ignored.
    """

    value: int
    name: str
    reason: str = ""


@dataclass
class ClassProposal:
    """The classes of a dataset.

    Attributes:
      entries: all ids or colors, classes in the order of their train ids.
      options: config options of the section `data` that say the same.
      doubts: decisions that may be wrong.
    """

    entries: list[Entry]
    options: dict[str, Any]
    doubts: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[Entry]:
        """The entries of classes."""
        return [entry for entry in self.entries if entry.name]

    @property
    def ignored(self) -> list[Entry]:
        """The entries that are ignored."""
        return [entry for entry in self.entries if not entry.name]


def propose_classes(coding: Coding, names_files: Sequence[NamesFile]) -> ClassProposal:
    """Proposes classes for labels with the coding.

    Raises:
      DataError: the labels have fewer than 2 or more than 255 classes.
    """
    entries, doubts = (_color_entries if coding.encoding == "colors" else _id_entries)(
        coding, names_files
    )
    classes = [entry for entry in entries if entry.name]
    unit = "colors" if coding.encoding == "colors" else "ids"
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"the labels have {len(coding.pixels)} {unit}; classes must be at most {MAX_CLASSES}."
            " If these are numbers of objects, heights or photos, choose the folder of the label"
            " maps."
        )
    values = ", ".join(_value_text(coding, value) for value in coding.pixels)
    check_class_count(classes, f"the {unit} {values}")
    names = _unique([entry.name for entry in classes])
    named = [Entry(entry.value, name) for entry, name in zip(classes, names, strict=True)]
    ignored = [entry for entry in entries if not entry.name]
    proposal = ClassProposal([*named, *ignored], {}, doubts)
    proposal.options = _options(coding, proposal)
    if coding.is_sample:
        proposal.doubts.append(
            f"{coding.num_read} of {coding.num_labels} labels were read: --mode=audit names {unit}"
            " that occur in others only"
        )
    return proposal


def check_class_count(classes: Sequence[object], values: str) -> None:
    """Raises DataError for fewer than 2 classes; `values` describes what labels contain."""
    if len(classes) < 2:
        raise DataError(
            f"the labels have {values} only, so there is a single class: nothing can be learned"
            " from them."
        )


def _id_entries(coding: Coding, names_files: Sequence[NamesFile]) -> tuple[list[Entry], list[str]]:
    present, doubts = set(coding.pixels), []
    ignored = _ignored_ids(present)
    file, names = _names_by_id(present - ignored.keys(), names_files)
    if file is not None:
        unnamed = sorted(present - ignored.keys() - names.keys())
        if unnamed:
            shares = ", ".join(f"{k} ({coding.share(k):.2%} of the pixels)" for k in unnamed)
            doubts.append(f"{file.path.name} has no name for the ids {shares}")
        absent = sorted(names.keys() - present)
        if absent:
            text = ", ".join(names[k] for k in absent[:5]) + ", ..." * (len(absent) > 5)
            doubts.append(f"no label that was read has the classes {text} of {file.path.name}")
    ids = sorted((present | names.keys()) - ignored.keys())
    if 0 in ids and 0 not in names and len(names) > 1:
        names = {0: "background", **names}
        doubts.append("id 0 was named background; if it means unlabeled, map it to 255")
    entries = [_named_entry(k, names.get(k, f"class_{n}")) for n, k in enumerate(ids)]
    if 255 in present and 255 not in ignored:
        doubts.append("id 255 was made a class; if it means unlabeled, remove the class")
    if not file:
        doubts.append("no file names the classes, such as classes.txt: edit data.classes")
    return [*entries, *(Entry(k, "", reason) for k, reason in ignored.items())], doubts


def _ignored_ids(present: set[int]) -> dict[int, str]:
    """Returns the ids that usually mean unlabeled, and why."""
    ignored: dict[int, str] = {}
    for value in (255, 65535):
        others = present - {255, 65535}
        if value in present and len(others) > 1 and max(others) <= _MAX_GAP * len(others) + 20:
            ignored[value] = f"{value} usually means unlabeled"
    return ignored


def _names_by_id(
    ids: set[int], files: Sequence[NamesFile]
) -> tuple[NamesFile | None, dict[int, str]]:
    """Returns the file whose names fit the ids best, and the name of each id."""
    for file in files:
        # Positions may start at 0 or, where 0 is unlabeled or background, at 1.
        for offset in (0, 1):
            names = {k: name for k, name in file.by_id(offset).items() if 0 <= k <= 65535}
            if ids - {0} <= names.keys() and (offset or 0 not in ids or 0 in names):
                return file, names
    return None, {}


def _color_entries(
    coding: Coding, names_files: Sequence[NamesFile]
) -> tuple[list[Entry], list[str]]:
    doubts: list[str] = []
    names: dict[int, str] = {}
    for file in names_files:
        listed = {pack_color(entry.color): entry.name for entry in file.classes if entry.color}
        if file.has_colors and set(coding.pixels) - {0} <= listed.keys():
            names = listed
            break
    else:
        values = _order_colors(coding.pixels)
        plain = next((f for f in names_files if len(f.classes) == len(values)), None)
        if plain is not None:
            texts = [entry.name for entry in plain.classes]
            doubts.append(
                f"{plain.path.name} has no colors: its order is assumed to be that of the colors"
            )
        else:
            texts = [f"class_{n}" for n in range(len(values))]
            doubts.append("no file names the colors, such as label_colors.txt: edit data.classes")
        names = dict(zip(values, texts, strict=True))
    unnamed = [value for value in coding.pixels if value not in names]
    for value in unnamed:  # black only
        names[value] = "background"
        doubts.append(
            f"black ({coding.share(value):.2%} of the pixels) was named background; if it means"
            " unlabeled, move it from data.palette to data.ignore_colors"
        )
    entries = [_named_entry(value, name) for value, name in names.items()]
    void = pack_color(_VOID_COLOR)
    entries = [
        Entry(void, "", "the color of borders in PASCAL VOC")
        if entry.value == void and entry.name.startswith("class_")
        else entry
        for entry in entries
    ]
    return entries, doubts


def _order_colors(colors: Iterable[int]) -> list[int]:
    """Sorts colors as PASCAL VOC numbers them, or else by value."""
    ranks = {pack_color(color): n for n, color in enumerate(distinct_colors(256))}
    colors = sorted(colors)
    if all(color in ranks or color == pack_color(_VOID_COLOR) for color in colors):
        return sorted(colors, key=lambda color: ranks.get(color, 256))
    return colors


def is_ignore_name(name: str) -> bool:
    """Returns whether a class of this name is usually ignored, such as "void"."""
    return _IGNORE_NAMES.fullmatch(name) is not None


def _named_entry(value: int, name: str) -> Entry:
    if is_ignore_name(name):
        return Entry(value, "", f"its name is {name!r}")
    return Entry(value, name)


def _unique(names: Sequence[str]) -> list[str]:
    """Appends numbers to repeated names."""
    return [f"{name}_{n}" if names.index(name) < n else name for n, name in enumerate(names)]


def _options(coding: Coding, proposal: ClassProposal) -> dict[str, Any]:
    classes = proposal.classes
    options: dict[str, Any] = {"classes": tuple(entry.name for entry in classes)}
    if coding.encoding == "colors":
        options["label_encoding"] = "colors"
        options["palette"] = tuple(unpack_color(entry.value) for entry in classes)
        if proposal.ignored:
            colors = tuple(unpack_color(entry.value) for entry in proposal.ignored)
            options["ignore_colors"] = colors
        if coding.tolerance:
            options["color_tolerance"] = float(coding.tolerance)
        return options
    palette = _palette(coding.palette, [entry.value for entry in classes])
    if palette:
        options["palette"] = palette
    pairs = [(entry.value, n) for n, entry in enumerate(classes)]
    pairs += [(entry.value, IGNORE_LABEL) for entry in proposal.ignored]
    if any(file_id != train_id for file_id, train_id in pairs):
        options["id_map"] = tuple(pairs)
    return options


def _palette(colors: Mapping[int, Color], ids: Sequence[int]) -> tuple[Color, ...]:
    """Returns the colors of palette files, if each class has one of its own."""
    palette = tuple(colors[k] for k in ids if k in colors)
    return palette if len(set(palette)) == len(ids) else ()


def _value_text(coding: Coding, value: int) -> str:
    return str(unpack_color(value)) if coding.encoding == "colors" else str(value)
