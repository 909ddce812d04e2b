"""Operations on the objects of a bucket that paths do not have."""

import os
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from gsto_jax.errors import UserError
from gsto_jax.files import is_hidden, is_remote

_HEADER_BLOCK = 2**16
"""Bytes of a request that reads part of an object."""
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
        return read_file(path)
    except FileNotFoundError:
        return None


def read_file(path: Path) -> bytes:
    """Returns the contents of a file, of an object by one request. Raises OSError."""
    if not is_remote(path):
        return path.read_bytes()
    return cast(bytes, _file_system(path).cat_file(os.fspath(path)))  # `open` asks for its size too


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


def walk_objects(folder: Path, skip: Collection[Path] = ()) -> list[str]:
    """Lists the objects below a folder recursively, without hidden ones.

    Args:
      folder: folder to search.
      skip: folders to leave out.

    Returns:
      Sorted paths relative to the folder; [] if there are none.
    """
    file_system = _file_system(folder)
    start = len(file_system._strip_protocol(os.fspath(folder))) + 1
    skipped = tuple(f"{file_system._strip_protocol(os.fspath(path))}/" for path in skip)
    return sorted(
        path[start:]
        for path in file_system.find(os.fspath(folder))
        # A console creates empty objects that end with a slash in place of folders.
        if not path.startswith(skipped) and path[start:].strip("/") and not path.endswith("/")
        if not is_hidden(path[start:])
    )


def is_folder(path: Path) -> bool:
    """Returns whether a path is a folder, also of this machine.

    Unlike `is_dir` of a URL, it raises the error of a bucket that refuses access.
    """
    if not is_remote(path):
        return path.is_dir()
    try:
        return bool(_file_system(path).info(os.fspath(path))["type"] == "directory")
    except FileNotFoundError:
        return False


def file_size(path: Path) -> int:
    """Returns the size of a file in bytes, also in a bucket."""
    stat: Any = path.stat()
    return int(stat.length if is_remote(path) else stat.st_size)


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yields a file of this machine with the contents of a file, which may be in a bucket.

    A UserError of the block names the file in the bucket.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        _file_system(path).get_file(os.fspath(path), str(local))
        try:
            yield local
        except UserError as error:
            raise UserError(str(error).replace(str(local), os.fspath(path))) from None


def open_header(path: Path) -> BinaryIO:
    """Opens an object of which a small part will be read."""
    file_system = _file_system(path)
    return cast(BinaryIO, file_system.open(os.fspath(path), "rb", block_size=_HEADER_BLOCK))


def _file_system(path: Path) -> Any:
    import fsspec

    return fsspec.url_to_fs(os.fspath(path))[0]
