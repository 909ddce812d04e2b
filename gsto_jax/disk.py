"""Files as people's systems leave them: hidden ones, links, names in any encoding; needs no JAX."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

IMAGES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Suffixes of image files."""
TEXTS = frozenset(
    ("", ".csv", ".htm", ".html", ".json", ".log", ".md", ".txt", ".xml", ".yaml", ".yml")
)
"""Suffixes of files that lie beside images and are none."""
_SYSTEM = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}
"""Names that archivers, servers and file managers leave beside people's files, lower case."""


def is_hidden(path: str) -> bool:
    """Returns whether a relative path leads through a hidden file or folder."""
    parts = path.replace("\\", "/").split("/")
    return any(
        (part.startswith(".") and part not in (".", "..")) or part.lower() in _SYSTEM
        for part in parts
    )


def walk_files(folder: Path, skip: Collection[Path] = ()) -> list[str]:
    """Lists the files below a folder, through links, without hidden ones.

    Args:
      folder: where to start.
      skip: folders to leave out.

    Returns:
      Paths relative to the folder, sorted. A link to a folder that it lies in is not followed.

    Raises:
      OSError: a folder cannot be read.
    """
    skipped = frozenset(map(os.path.realpath, skip))
    start = len(os.path.join(folder, ""))
    return sorted(path[start:].replace(os.sep, "/") for path in _below(folder, skipped))


def _below(folder: str | Path, parents: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in parents:
        return
    with os.scandir(folder) as entries:
        listed = [entry for entry in entries if not is_hidden(entry.name)]
    for entry in listed:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from _below(entry.path, parents | {real})
        else:
            yield entry.path


def readable(text: str) -> str:
    """Returns a file name as text of Unicode; one that is not UTF-8 is read as Windows-1252."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return text
