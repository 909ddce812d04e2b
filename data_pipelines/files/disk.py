"""Names and lists of files, as people's systems leave them."""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from gsto_jax.files import IMAGE_SUFFIXES, to_unicode, walk_files

_FIGURES = ("_branches", "_gates")
"""Endings of the figures that an evaluation writes beside an image's own."""
_SHOWN = 3


def list_files(folder: Path, skip: Collection[Path] = ()) -> list[str]:
    """Lists the files below a folder; see `gsto_jax.files.walk_files`.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        return walk_files(folder, skip)
    except OSError as error:
        raise DataError(f"Cannot read the folder {error.filename}: {error.strerror}.") from None


def strip_suffix(path: str, suffix: str) -> str | None:
    """Returns a path less its suffix, which is compared without regard to case.

    Args:
        path: of a file.
        suffix: such as ".png" or "_leftImg8bit.png"; empty: any of `IMAGE_SUFFIXES`.

    Returns:
        The rest; None where the path has another suffix, or nothing else in its name.
    """
    if not suffix:
        stem, suffix = os.path.splitext(path)
        return stem if suffix.lower() in IMAGE_SUFFIXES else None
    stem = path[: -len(suffix)]
    fits = path[-len(suffix) :].lower() == suffix.lower()
    return stem if fits and stem and not stem.endswith("/") else None


def unique_names(stems: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Makes names under which the results of no two files overwrite each other.

    Args:
        stems: of the files.
        suffixes: of the files, such as ".png".

    Returns:
        The stems. Files that differ in suffix or case alone get "_png" behind it, and a number if
        that does not suffice.

    Example:
        >>> unique_names(["a", "a", "b"], [".png", ".jpg", ".png"])
        ['a_png', 'a_jpg', 'b']
    """
    stems = [to_unicode(stem) for stem in stems]
    counts = Counter(map(_key, stems))
    taken: set[str] = set()
    names = []
    for stem, suffix in zip(stems, suffixes, strict=True):
        base = stem if counts[_key(stem)] == 1 else f"{stem}_{to_unicode(suffix).lstrip('.')}"
        name, number = base, 1
        while not taken.isdisjoint(files := {_key(name + end) for end in ("", *_FIGURES)}):
            number += 1
            name = f"{base}_{number}"
        taken |= files
        names.append(name)
    return names


def _key(name: str) -> str:
    """Returns what names have in common that one folder of some system cannot hold both."""
    return unicodedata.normalize("NFC", name).casefold()


def decode_text(data: bytes, name: object) -> str:
    """Decodes a list as people's systems write it.

    Args:
        data: UTF-8 or UTF-16, with or without a byte order mark. Bytes that are neither are kept
            (`surrogateescape`), as Python keeps those of file names.
        name: of the file, for messages.

    Raises:
        DataError: UTF-16 that is cut off.
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
        raise DataError(f"{name} is no text ({error}): save it as UTF-8.") from None


def first_few(names: Collection[object]) -> str:
    """Returns the first few names, for messages."""
    first = ", ".join(str(name) for name in list(names)[:_SHOWN])
    return f"{first} ..." if len(names) > _SHOWN else first
