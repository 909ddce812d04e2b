"""Files: replaced whole or not at all, listed, named in errors, CSV and JSON. Needs no JAX."""

import csv
import errno
import io
import json
import math
import os
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    """Yields where to write a file or folder that takes its place at the end, unless that fails.

    Args:
      path: its place, in a folder that exists.

    Raises:
      OSError: the file cannot be written; its `filename` is set.

    Example:
      >>> with replacing(folder / "scores.zip") as part:
      ...     part.write_bytes(data)
    """
    # Short, whatever the length of the name; the suffix tells encoders the format.
    part = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.part{path.suffix}")
    try:
        with named(path):
            _remove(part)  # left by a process that was killed
            yield part
            if part.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises OSError."""
    with replacing(path) as part:
        part.write_text(text, "utf-8", "surrogateescape", newline="\n")


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


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file; None where there is none, or another value."""
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


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


def to_csv(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Returns CSV with lines that end in a line feed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path) -> list[list[str]]:
    """Returns the rows of a CSV file. Raises OSError, ValueError or `csv.Error`."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))
