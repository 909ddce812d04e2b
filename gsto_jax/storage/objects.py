"""Operations on the objects of a bucket that paths do not have."""

import os
from pathlib import Path
from typing import Any


def create_object(path: Path, data: bytes) -> bool:
    """Creates an object unless it exists, atomically among all clients of the bucket.

    Returns:
      Whether it was created.
    """
    try:
        _file_system(path).pipe_file(os.fspath(path), data, mode="create")
    except FileExistsError:
        # A repeated request, whose first answer was lost, finds the object that it has created.
        return read_object(path) == data
    return True


def read_object(path: Path) -> bytes | None:
    """Returns the contents of an object; None if it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def list_names(folder: Path) -> list[str]:
    """Returns the sorted names of the objects and folders in a folder; [] if there are none."""
    try:
        return sorted({path.name for path in folder.iterdir()} - {folder.name, ""})
    except FileNotFoundError:
        return []


def _file_system(path: Path) -> Any:
    import fsspec

    return fsspec.url_to_fs(os.fspath(path))[0]
