"""Operations on the objects of a bucket that paths do not have."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gsto_jax.files import is_remote

_COPIES = 16
"""Objects that are copied at the same time."""


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


def move_folder(folder: Path, target: Path) -> None:
    """Renames a folder; in a bucket, which cannot, copies its objects and deletes them."""
    if not is_remote(folder):
        folder.rename(target)
        return
    files = _file_system(folder)
    source = files._strip_protocol(os.fspath(folder))
    destination = files._strip_protocol(os.fspath(target))
    names = files.find(source)
    with ThreadPoolExecutor(_COPIES) as pool:
        copies = [
            pool.submit(files.cp_file, name, destination + name.removeprefix(source))
            for name in names
        ]
        for copy in copies:
            copy.result()
    files.rm(names)


def _file_system(path: Path) -> Any:
    import fsspec

    return fsspec.url_to_fs(os.fspath(path))[0]
