"""Reads downloaded files from folders, zips and tars as one tree."""

import contextlib
import gzip
import io
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

from data_pipelines.errors import DataError
from data_pipelines.files.disk import decode_text, list_files
from data_pipelines.files.json import read_json
from data_pipelines.files.limits import (
    MAX_EXPANSION_RATIO,
    MAX_FILE_BYTES,
    MAX_NESTING,
    MIN_EXPANSION_LIMIT,
    escapes_folder,
)
from gsto_jax.errors import first_line
from gsto_jax.files import is_disk_full, is_hidden

SCRATCH_PREFIX = "scratch-"
"""Prefix of the names of temporary folders."""
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_READ_ERRORS = (
    *(OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError),
    RuntimeError,  # an encrypted zip, or a compression that Python does not support
    *(struct.error, ValueError, LookupError, OverflowError),  # malformed headers
)
_BOUNDED_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compressions that Python expands incrementally; it expands bzip2 and LZMA in one piece."""
_MAX_LISTED = 5


class Downloads:
    """Read access to the files of a folder and the members of its archives, by path.

    The path of a member starts with the folder of its archive; archives within archives are opened
    too. Nothing is unpacked, except that nested archives and compressed tars are expanded into a
    temporary folder for random access. Hidden files are left out (`gsto_jax.files.is_hidden`).
    Links in folders are followed, links in archives are not.

    Archives are untrusted: a member whose path leaves its archive is refused, and so is what
    exceeds `data_pipelines.files.limits`, before anything is allocated for it.

    Args:
      source: a folder, or one archive.
      scratch: parent of the temporary folder; None: the system's.

    Attributes:
      names: paths relative to the source, sorted.
      broken: messages about archives that cannot be opened.
      notes: messages to the user about files from which a dataset can be built all the same.

    Raises:
      DataError: the source does not exist, or an archive is refused.
    """

    def __init__(self, source: Path, scratch: Path | None = None) -> None:
        self.source = source
        self.broken: list[str] = []
        self.notes: list[str] = []
        self._readers: dict[str, Callable[[], bytes]] = {}
        self._resources, self._scratch = contextlib.ExitStack(), scratch
        self._temporary_folder: Path | None = None
        if not source.exists():
            raise DataError(f"There is no folder {source}. Pass the folder of the downloads.")
        base = source if source.is_dir() else source.parent
        try:
            files = [source / name for name in list_files(source)] if source.is_dir() else [source]
            for path in files:
                self._add(path, path.relative_to(base).parent)
        except BaseException:
            self.close()
            raise
        self.names = sorted(self._readers)

    def _add(self, path: Path, folder: Path, depth: int = 0) -> None:
        """Adds a file, or the members of an archive, below a folder of the tree."""
        name = path.name.lower()
        try:
            if depth > MAX_NESTING:
                raise _refusal(folder / path.name, f"archives are nested {depth} deep")
            if name.endswith(".zip"):
                self._add_zip(path, folder, depth)
            elif name.endswith(_ARCHIVE_SUFFIXES):
                self._add_tar(path if name.endswith(".tar") else self._gunzip(path), folder)
            else:
                self._readers[(folder / path.name).as_posix()] = path.read_bytes
        except DataError:
            raise
        except _READ_ERRORS as error:
            if isinstance(error, OSError) and is_disk_full(error):
                raise
            location = self.source / folder / path.name if self.source.is_dir() else path
            self.broken.append(
                f"Cannot open {location}: it is damaged or incomplete ({first_line(error)})."
                " Download it again."
            )

    def _add_zip(self, path: Path, folder: Path, depth: int) -> None:
        archive = self._resources.enter_context(zipfile.ZipFile(path))
        for member in archive.infolist():
            if member.is_dir() or is_hidden(member.filename):
                continue
            inner = _member_path(folder, member.filename, path.name)
            if member.filename.lower().endswith(_ARCHIVE_SUFFIXES):
                _check_compression(member)
                unpacked = self._temporary_path(inner.name)
                with archive.open(member) as packed, unpacked.open("wb") as out:
                    _expand(packed, out, min(member.compress_size, path.stat().st_size), inner)
                self._add(unpacked, inner.parent, depth + 1)
            else:
                self._readers[inner.as_posix()] = partial(_read_zip_member, archive, member)

    def _add_tar(
        self, path: Path, folder: Path, start: int = 0, end: int | None = None, depth: int = 0
    ) -> None:
        """Adds the members of a tar, which is part of a file if it is a member of another one."""
        end = path.stat().st_size if end is None else end
        with _TarFile(path) as file:
            file.seek(start)
            self._add_tar_members(path, folder, file, end, depth)

    def _add_tar_members(
        self, path: Path, folder: Path, file: io.FileIO, end: int, depth: int
    ) -> None:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if not info.isreg() or is_hidden(info.name):
                    continue
                stop = info.offset_data + info.size
                if stop > end:
                    raise EOFError(f"{info.name} is truncated")
                if info.name.lower().endswith(".tar"):
                    inner = _member_path(folder, info.name, path.name)
                    if depth == MAX_NESTING:
                        raise _refusal(inner, f"archives are nested {depth + 1} deep")
                    self._add_tar(path, inner.parent, info.offset_data, stop, depth + 1)
                    continue
                reader = partial(_read_range, path, info.offset_data, info.size)
                self._readers[_member_path(folder, info.name, path.name).as_posix()] = reader

    def _gunzip(self, path: Path) -> Path:
        plain = self._temporary_path(f"{path.name}.tar")
        with gzip.open(path) as packed, plain.open("wb") as out:
            _expand(packed, out, path.stat().st_size, path)
        return plain

    def _temporary_path(self, name: str) -> Path:
        if self._temporary_folder is None:
            folder = tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=self._scratch)
            self._temporary_folder = Path(self._resources.enter_context(folder))
        return Path(tempfile.mkdtemp(dir=self._temporary_folder)) / name

    def __enter__(self) -> "Downloads":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def match(self, pattern: str) -> list[re.Match[str]]:
        """Matches the paths whose last components fit a regular expression.

        A file suffix at the end of the pattern matches in any case.
        """
        pattern = re.sub(r"(\\\.\w+)$", r"(?i:\1)", pattern)
        compiled = re.compile(rf"(?:^|.*/){pattern}$")
        return [match for name in self.names if (match := compiled.match(name))]

    def read(self, name: str) -> bytes:
        """Reads a file. Raises DataError if it does not exist or cannot be read."""
        if name not in self._readers:
            raise DataError(f"{self.source} has no file {name}. Restore it.")
        try:
            return self._readers[name]()
        except _READ_ERRORS as error:
            raise DataError(
                f"Cannot read {name} in {self.source}: {first_line(error)}. Download it again."
            ) from None

    def read_text(self, name: str) -> str:
        """Reads a text file, see `data_pipelines.files.disk.decode_text`. Raises DataError."""
        return decode_text(self.read(name), name)

    def read_json(self, name: str) -> Any:
        """Reads a JSON file, see `data_pipelines.files.json.read_json`. Raises DataError."""
        return read_json(self.read(name), name)

    def describe(self) -> str:
        """Returns the number of files and some of their names."""
        if not self.names:
            return "no files"
        step = max(1, len(self.names) // _MAX_LISTED)
        return f"{len(self.names)} files, such as {', '.join(self.names[::step][:_MAX_LISTED])}"

    def close(self) -> None:
        """Closes the archives and removes temporary files."""
        self._resources.close()


class _TarFile(io.FileIO):
    """A tar file that refuses to read headers of an absurd length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MIN_EXPANSION_LIMIT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _member_path(folder: Path, name: str, archive: str) -> Path:
    if escapes_folder(name):
        raise _refusal(archive, f"its member {name!r} escapes the folder")
    return folder / name


def _refusal(archive: Path | str, reason: str) -> DataError:
    return DataError(
        f"{archive} is refused: {reason}, as in no published dataset. Download it again from its"
        " official site."
    )


def _expand(packed: Any, out: IO[bytes], packed_size: int, name: Path) -> None:
    """Expands an archive into a file, up to the limit for its packed size."""
    limit = max(MIN_EXPANSION_LIMIT, MAX_EXPANSION_RATIO * packed_size)
    expanded = 0
    while chunk := packed.read(2**20):
        expanded += len(chunk)
        if expanded > limit:
            raise _refusal(name, f"its {packed_size} bytes expand to more than {limit}")
        out.write(chunk)


def _read_zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_compression(member)
    _check_size(member.file_size)
    with archive.open(member) as file:
        # A size bounds what is expanded; at least 1, since 0 would skip the checksum.
        data = file.read(max(1, member.file_size))
    if len(data) != member.file_size:
        raise EOFError(f"{member.filename} is truncated")
    return data


def _check_compression(member: zipfile.ZipInfo) -> None:
    if member.compress_type not in _BOUNDED_COMPRESSIONS:
        raise EOFError(f"{member.filename} must be stored or deflated; repack the archive")


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise EOFError(f"its header states {size} bytes; at most {MAX_FILE_BYTES} are read")


def _read_range(path: Path, offset: int, size: int) -> bytes:
    _check_size(size)
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{path} is truncated")
    return data
