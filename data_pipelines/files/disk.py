"""Lists files, derives unique names for results, and decodes text files."""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from gsto_jax.files import IMAGE_SUFFIXES, to_unicode, walk_files
from gsto_jax.storage import is_folder, is_remote, list_names, walk_objects

_RESULT_SUFFIXES = ("", "_branches", "_gates")
"""Suffixes that evaluation appends to an image's name for the figures it writes."""
_MAX_LISTED = 3


def list_files(folder: Path, skip: Collection[Path] = ()) -> list[str]:
    """Lists the files below a folder, see `gsto_jax.files.walk_files`. Raises DataError."""
    if is_remote(folder):
        return walk_objects(folder, skip)
    try:
        return walk_files(folder, skip)
    except OSError as error:
        raise DataError(f"Cannot read the folder {error.filename}: {error.strerror}.") from None


class FileLookup:
    """Looks up whether files exist; in a bucket by one listing of each folder."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def is_file(self, path: Path) -> bool:
        """Returns whether a path is that of a file."""
        if not is_remote(path):
            return os.path.isfile(path)
        folder = path.parent
        if folder not in self._names:
            names = list_names(folder) if is_folder(folder) else []
            self._names[folder] = frozenset(names)
        return path.name in self._names[folder]


def strip_suffix(path: str, suffix: str) -> str | None:
    """Returns a path without its suffix, ignoring case; None if it has another one.

    A suffix is any end of a name, such as "_leftImg8bit.png"; "" stands for all `IMAGE_SUFFIXES`.
    """
    if not suffix:
        stem, suffix = os.path.splitext(path)
        return stem if suffix.lower() in IMAGE_SUFFIXES else None
    stem = path[: -len(suffix)]
    matches = path[-len(suffix) :].lower() == suffix.lower()
    return stem if matches and stem and not stem.endswith("/") else None


def unique_names(stems: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Returns a name per file under which results can be saved without overwriting each other.

    Stems that are equal but for case or Unicode normalization get their suffix appended ("_png"),
    and a number if that is not enough.

    Example:
      >>> unique_names(["a", "a", "b"], [".png", ".jpg", ".png"])
      ['a_png', 'a_jpg', 'b']
    """
    stems = [to_unicode(stem) for stem in stems]
    counts = Counter(map(_collision_key, stems))
    used: set[str] = set()
    names = []
    for stem, suffix in zip(stems, suffixes, strict=True):
        base = stem
        if counts[_collision_key(stem)] > 1:
            base = f"{stem}_{to_unicode(suffix).lstrip('.')}"
        name, number = base, 1
        while used & (keys := {_collision_key(name + end) for end in _RESULT_SUFFIXES}):
            number += 1
            name = f"{base}_{number}"
        used |= keys
        names.append(name)
    return names


def _collision_key(name: str) -> str:
    """Returns a key that is equal for names which collide on some file system."""
    return unicodedata.normalize("NFC", name).casefold()


def decode_text(data: bytes, name: object) -> str:
    """Decodes UTF-8 or UTF-16, with or without byte order mark.

    Other bytes become surrogates, as in Python's file names. Raises DataError for truncated UTF-16.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\0" in data[:200]:
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    else:
        return data.decode("utf-8-sig", "surrogateescape")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not a UTF-8 text file ({error}). Save it as UTF-8.") from None


def first_few(names: Collection[object]) -> str:
    """Joins the first few names for a message, with "..." for the others."""
    text = ", ".join(str(name) for name in list(names)[:_MAX_LISTED])
    return f"{text} ..." if len(names) > _MAX_LISTED else text
