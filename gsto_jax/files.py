"""File helpers: atomic writes, listing, disk errors, JSON and CSV. Needs no JAX.

Writing and reading also work for URLs of buckets (`gsto_jax.storage`).
"""

import csv
import errno
import io
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
TEXT_SUFFIXES = frozenset(
    ("", ".csv", ".htm", ".html", ".json", ".log", ".md", ".txt", ".xml", ".yaml", ".yml")
)
"""Suffixes of files that often lie in image folders and are silently skipped there."""
_SYSTEM_FILES = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}
"""Lower-case names that archivers, servers and file managers create."""
_UPLOADS = 16
"""Files of a folder that are read and uploaded at the same time."""


def is_remote(path: os.PathLike[str]) -> bool:
    """Returns whether a path is a URL: objects in a bucket, without locks, appends or renaming."""
    return "://" in os.fspath(path)


def make_folder(path: Path) -> None:
    """Creates a folder and its parents; raises OSError. A bucket needs none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def is_hidden(path: str) -> bool:
    """Returns whether any component of a relative path is hidden or a system file."""
    parts = path.replace("\\", "/").split("/")
    return any(
        (part.startswith(".") and part not in (".", "..")) or part.lower() in _SYSTEM_FILES
        for part in parts
    )


def walk_files(folder: Path, skip: Collection[Path] = ()) -> list[str]:
    """Lists the files below a folder recursively, without hidden files.

    Args:
      folder: folder to search. Symbolic links are followed, except to a parent folder.
      skip: folders to leave out.

    Returns:
      Sorted paths relative to the folder.

    Raises:
      OSError: a folder cannot be read.
    """
    skipped = frozenset(map(os.path.realpath, skip))
    start = len(os.path.join(folder, ""))
    return sorted(path[start:].replace(os.sep, "/") for path in _walk(folder, skipped))


def _walk(folder: str | Path, parents: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in parents:
        return
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not is_hidden(entry.name)]
    for entry in visible:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from _walk(entry.path, parents | {real})
        else:
            yield entry.path


def to_unicode(filename: str) -> str:
    """Returns a file name as valid Unicode; a name that is not UTF-8 is read as Windows-1252."""
    try:
        filename.encode()
    except UnicodeEncodeError:
        return filename.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return filename


_DISK_FULL = ("ENOSPC", "EDQUOT", "EFBIG")
_ACCESS_DENIED = (
    *("EROFS", "EACCES", "EPERM", "EIO", "ESTALE"),
    *("ENAMETOOLONG", "EISDIR", "ENOTDIR"),
)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces a file or folder, unless the block raises.

    Args:
      path: file or folder to replace; its parent folder is created if missing. In a bucket the
        temporary path is local, files are replaced atomically, and of a folder the files that it
        holds directly are uploaded last, after its subfolders.

    Raises:
      OSError: the file cannot be written; its `filename` is set.

    Example:
      >>> with atomic_write(folder / "scores.zip") as temporary:
      ...     temporary.write_bytes(data)
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / f"part{path.suffix}"
            yield local
            _upload(local, path)
        return
    # A hash keeps the name short; the suffix tells encoders the format.
    crc = zlib.crc32(os.fsencode(path.name))
    temporary = path.with_name(f".{crc:08x}.part{path.suffix}")
    try:
        with name_in_errors(path):
            make_folder(path.parent)
            _remove(temporary)  # left by a process that was killed
            yield temporary
            if temporary.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _upload(local: Path, path: Path) -> None:
    """Replaces an object, or all objects of a folder, by a local file or folder."""
    if local.is_dir():
        if path.is_dir():
            cast(Any, path).rmtree()
        add_files(local, path)
    else:
        path.write_bytes(local.read_bytes())


def add_files(local: Path, folder: Path) -> None:
    """Uploads the files of a local folder to a folder in a bucket, those of its subfolders first.

    Raises:
      Exception: errors of the bucket's client.
    """

    def upload(file: Path) -> None:
        (folder / file.relative_to(local)).write_bytes(file.read_bytes())

    files = [file for file in local.rglob("*") if file.is_file()]
    with ThreadPoolExecutor(_UPLOADS) as pool:
        for is_direct in (False, True):
            part = [file for file in files if (file.parent == local) == is_direct]
            for _ in pool.map(upload, part):
                pass  # raises the first error


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, "utf-8", "surrogateescape", newline="\n")


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Sets the file name of an OSError without one, such as the error of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def is_disk_full(error: OSError) -> bool:
    """Returns whether an error means that no further file can be written to the disk."""
    return errno.errorcode.get(error.errno or 0) in _DISK_FULL


def disk_error_message(error: BaseException) -> str | None:
    """Returns a message for the user about a disk error; None for any other error."""
    if not isinstance(error, OSError):
        return None
    name = errno.errorcode.get(error.errno or 0)
    if name not in (*_DISK_FULL, *_ACCESS_DENIED):
        return None
    remedy = "free up disk space" if name in _DISK_FULL else "check permissions or use another path"
    path = error.filename2 or error.filename or "a file"
    return f"cannot read or write {path} ({error.strerror}): {remedy}, then rerun the command"


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
      ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object from a file; None if the file is missing or holds anything else."""
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError:
        if is_remote(path):  # refused or unavailable, which does not mean missing
            raise
        return None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns strict JSON, in which NaN and infinity become null."""
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
    """Returns CSV text with LF line endings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path) -> list[list[str]]:
    """Reads the rows of a CSV file. Raises OSError, ValueError or `csv.Error`."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline="")))
