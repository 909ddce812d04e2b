"""Files as they were downloaded: folders, zips and tars, seen as one tree."""

import contextlib
import errno
import gzip
import io
import math
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

import numpy as np
import scipy.io

from data_pipelines.errors import DataError
from data_pipelines.files.disk import decode_text, list_files
from data_pipelines.files.json import read_json
from data_pipelines.files.limits import (
    MAX_EXPANSION_RATIO,
    MAX_FILE_BYTES,
    MAX_NESTING,
    MAX_TEXT_BYTES,
    MIN_EXPANSION_LIMIT,
    escapes_folder,
)
from gsto_jax.files import is_hidden

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that is full."""
SCRATCH = "scratch-"
"""What the name of a temporary folder begins with."""
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
# RuntimeError: encrypted, or packed in a way that Python does not know.
_DAMAGE = (
    *(OSError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError),
    *(struct.error, ValueError, LookupError, OverflowError),  # of heads that make no sense
)
_SHOWN = 5
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What Python expands no further than it is asked to; of bzip2 and LZMA it makes all at once."""


class Downloads:
    """The files below a folder, members of its archives among them, by their paths.

    Hidden files are left out, as are those that systems leave (`gsto_jax.files.is_hidden`).

    A member's path starts where its archive lies; an archive in an archive is seen through too.
    Nothing is unpacked, except that inner archives and compressed tars are put into a temporary
    folder, for random access. Links in the folder are followed, links in archives are not.

    Archives may come from anywhere: a member whose path leads out of its archive is refused, and so
    is what is larger than `data_pipelines.files.limits` allows, before room is made for it.

    Args:
        source: a folder, or one archive.
        scratch: where the temporary folder is made; None for the system's place.

    Attributes:
        source: the same.
        names: paths relative to the source, sorted.
        broken: what is wrong with the archives that cannot be opened.
        notes: what people should know of the files, though a dataset can be made of them.

    Raises:
        DataError: the source is not there, or an archive is one that no dataset needs.
    """

    def __init__(self, source: Path, scratch: Path | None = None) -> None:
        self.source = source
        self.broken: list[str] = []
        self.notes: list[str] = []
        self._readers: dict[str, Callable[[], bytes]] = {}
        self._open, self._scratch = contextlib.ExitStack(), scratch
        self._folder: Path | None = None
        if not source.exists():
            raise DataError(f"There is no folder {source}; give the folder of the downloads.")
        base = source if source.is_dir() else source.parent
        try:
            files = [source / name for name in list_files(source)] if source.is_dir() else [source]
            for path in files:
                self._add(path, path.relative_to(base).parent)
        except BaseException:
            self.close()
            raise
        self.names = sorted(self._readers)

    def _add(self, path: Path, place: Path, depth: int = 0) -> None:
        name = path.name.lower()
        try:
            if depth > MAX_NESTING:
                raise _refusal(place / path.name, f"archives lie {depth} deep in others")
            if name.endswith(".zip"):
                self._add_zip(path, place, depth)
            elif name.endswith(_ARCHIVES):
                self._add_tar(path if name.endswith(".tar") else self._expanded(path), place)
            else:
                self._readers[(place / path.name).as_posix()] = path.read_bytes
        except DataError:
            raise
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            shown = self.source / place / path.name if self.source.is_dir() else path
            self.broken.append(
                f"Cannot open {shown}: it is damaged or incomplete ({_short(error)}); download it"
                " again."
            )

    def _add_zip(self, path: Path, place: Path, depth: int) -> None:
        archive = self._open.enter_context(zipfile.ZipFile(path))
        for member in archive.infolist():
            if member.is_dir() or is_hidden(member.filename):
                continue
            inner = _member(place, member.filename, path.name)
            if member.filename.lower().endswith(_ARCHIVES):
                _check_packing(member)
                unpacked = self._temporary(inner.name)
                with archive.open(member) as packed, unpacked.open("wb") as out:
                    _copy(packed, out, min(member.compress_size, path.stat().st_size), inner)
                self._add(unpacked, inner.parent, depth + 1)
            else:
                self._readers[inner.as_posix()] = partial(_read_member, archive, member)

    def _add_tar(self, path: Path, place: Path) -> None:
        size = path.stat().st_size
        with _TarFile(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if not info.isreg() or is_hidden(info.name):
                    continue
                if info.offset_data + info.size > size:
                    raise EOFError(f"{info.name} is cut off")
                reader = partial(_read_at, path, info.offset_data, info.size)
                self._readers[_member(place, info.name, path.name).as_posix()] = reader

    def _expanded(self, path: Path) -> Path:
        plain = self._temporary(f"{path.name}.tar")
        with gzip.open(path) as packed, plain.open("wb") as out:
            _copy(packed, out, path.stat().st_size, path)
        return plain

    def _temporary(self, name: str) -> Path:
        if self._folder is None:
            made = tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._scratch)
            self._folder = Path(self._open.enter_context(made))
        return Path(tempfile.mkdtemp(dir=self._folder)) / name

    def __enter__(self) -> "Downloads":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def match(self, pattern: str) -> list[re.Match[str]]:
        """Returns a match for each path whose end, from the start of a name, fits the pattern.

        A suffix at the pattern's end, such as that of PNG, matches in upper case too.
        """
        pattern = re.sub(r"(\\\.\w+)$", r"(?i:\1)", pattern)
        compiled = re.compile(rf"(?:^|.*/){pattern}$")
        return [found for name in self.names if (found := compiled.match(name))]

    def read(self, name: str) -> bytes:
        """Reads a file.

        Raises:
            DataError: there is none of that name, or it cannot be read.
        """
        if name not in self._readers:
            raise DataError(f"{self.source} has no file {name}; restore it.")
        try:
            return self._readers[name]()
        except _DAMAGE as error:
            raise DataError(
                f"Cannot read {name} in {self.source}: {_short(error)}; download it again."
            ) from None

    def read_text(self, name: str) -> str:
        """Reads a list or table, see `data_pipelines.files.disk.decode_text`. Raises DataError."""
        return decode_text(self.read(name), name)

    def read_json(self, name: str) -> Any:
        """Reads a JSON file.

        Raises:
            DataError: it cannot be read, or see `data_pipelines.files.json.read_json`.
        """
        return read_json(self.read(name), name)

    def summary(self) -> str:
        """Returns what is there, in words."""
        if not self.names:
            return "no file at all"
        step = max(1, len(self.names) // _SHOWN)
        shown = ", ".join(self.names[::step][:_SHOWN])
        return f"{len(self.names)} files, such as {shown}"

    def close(self) -> None:
        """Closes the archives, and removes what was expanded."""
        self._open.close()


class _TarFile(io.FileIO):
    """A tar whose heads cannot ask for more than heads need, nor for more than it has."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MIN_EXPANSION_LIMIT:
            raise tarfile.ReadError(f"a head of {size} bytes")
        return super().read(size)


def _member(place: Path, name: str, archive: str) -> Path:
    """The path of an archive's member. Raises DataError where it leads out of the archive."""
    if escapes_folder(name):
        raise _refusal(archive, f"its member {name!r} leads out of it")
    return place / name


def _short(error: Exception) -> str:
    """What is wrong, without all the bytes of the file that zipfile may quote."""
    return (str(error) or type(error).__name__)[:200]


def _refusal(archive: Path | str, reason: str) -> DataError:
    return DataError(
        f"{archive} is refused: {reason}, which no published dataset does; download it again from"
        " where it was published."
    )


def _copy(packed: Any, out: IO[bytes], size: int, name: Path) -> None:
    """Expands an archive into a file, but never a small one into a large one."""
    most = max(MIN_EXPANSION_LIMIT, MAX_EXPANSION_RATIO * size)
    done = 0
    while part := packed.read(2**20):
        done += len(part)
        if done > most:
            raise _refusal(name, f"its {size} bytes expand to more than {most}")
        out.write(part)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_packing(member)
    _check_length(member.file_size)
    with archive.open(member) as file:
        # Without a number it would expand whatever there is; for 0 it would not compare the sum.
        data = file.read(max(1, member.file_size))
    if len(data) != member.file_size:
        raise EOFError(f"{member.filename} is cut off")
    return data


def _check_packing(member: zipfile.ZipInfo) -> None:
    if member.compress_type not in _BOUNDED:
        raise EOFError(f"{member.filename} is neither stored nor deflated: pack it so")


def _check_length(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise EOFError(f"it says that it has {size} bytes, and {MAX_FILE_BYTES} is the most")


def _read_at(path: Path, offset: int, size: int) -> bytes:
    _check_length(size)
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{path} is cut off")
    return data


def read_mat(data: bytes, variable: str) -> np.ndarray:
    """Reads one array of numbers of a MATLAB file (version 5, as `save -v6` or `-v7` writes).

    Raises:
        ValueError: it is not in it, damaged, or larger than `MAX_TEXT_BYTES`.
    """
    try:
        plain = _plain_mat(data)
        kinds = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(io.BytesIO(plain))}
        shape, kind = kinds[variable]
        if kind not in _NUMBERS or math.prod(shape) > len(plain):
            raise ValueError(f"it is {kind} of shape {shape} in {len(plain)} bytes")
        found = scipy.io.loadmat(io.BytesIO(plain), variable_names=[variable])[variable]
        return np.asarray(found)
    except Exception as error:  # a file that is something else makes loadmat fail in any way
        raise ValueError(_short(error)) from None


_NUMBERS = {
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("single", "double", "logical"),
}


def _plain_mat(data: bytes) -> bytes:
    """The same file without compression: what follows may trust the length of what it reads."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("it is no MATLAB file of version 5")
    parts, at, room = [data[:128]], 128, MAX_TEXT_BYTES
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        part = data[at + 8 : at + 8 + size]
        if kind == _COMPRESSED:
            part = zlib.decompressobj().decompress(part, room + 1)  # 0 would be no limit
        else:
            part = data[at : at + 8] + part
        parts.append(part)
        room, at = room - len(part), at + 8 + size
        if room < 0:
            raise ValueError(f"it expands to more than {MAX_TEXT_BYTES} bytes")
    return b"".join(parts)


_COMPRESSED = 15
