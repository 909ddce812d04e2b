"""Files that are there whole or not at all, and what to say where one cannot be written."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
