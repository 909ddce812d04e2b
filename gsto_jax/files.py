"""Files: replaced whole or not at all, listed, named in errors, and JSON. Needs no JAX."""

import errno
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


_FULL = ("ENOSPC", "EDQUOT", "EFBIG")
_REFUSED = ("EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENAMETOOLONG", "EISDIR", "ENOTDIR")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place at the end, and does not where that failed.

    Args:
      path: its place, in a folder that is there.

    Raises:
      OSError: the file cannot be written; its `filename` is set.

    Example:
      >>> with replacing(folder / "scores.json") as part:
      ...     part.write_text(text)
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with named(path):
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Names the file in errors that do not: of a full disk, Python knows only the number."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def is_full(error: OSError) -> bool:
    """Returns whether an error means that no further file can be written there."""
    return errno.errorcode.get(error.errno or 0) in _FULL


def disk_problem(error: BaseException) -> str | None:
    """Returns what to say of an error that a disk made; None for any other.

    Args:
      error: any.
    """
    if not isinstance(error, OSError):
        return None
    name = errno.errorcode.get(error.errno or 0)
    if name not in (*_FULL, *_REFUSED):
        return None
    remedy = "make room" if name in _FULL else "make it writable or choose another place"
    path = error.filename2 or error.filename or "a file"
    return (
        f"{path} cannot be written or read ({error.strerror}): {remedy}, and give the same command "
        "again"
    )


def parse_json(text: str | bytes) -> Any:
    """Reads JSON.

    Raises:
      ValueError: it is none, or nested beyond reason.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON that strict parsers read: NaN and infinity become null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
