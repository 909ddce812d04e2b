"""Files as they were downloaded: folders, zips and tars, seen as one tree."""

import contextlib
import errno
import gzip
import io
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io

from data_pipelines.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that is full."""
SCRATCH = "scratch-"
"""What the name of a temporary folder begins with."""
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
# RuntimeError: encrypted, or packed in a way that Python does not know.
_DAMAGE = (OSError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)
_SHOWN = 5


class Downloads:
    """The files below a folder, members of its archives among them, by their paths.

    A member's path starts where its archive lies; an archive in an archive is seen through too.
    Nothing is unpacked, except that inner archives and compressed tars are put into a temporary
    folder, for random access. Links are followed.

    Args:
        source: a folder, or one archive.
        scratch: where the temporary folder is made; None for the system's place.

    Attributes:
        source: the same.
        names: paths relative to the source, sorted.
        broken: what is wrong with the archives that cannot be opened.

    Raises:
        DataError: the source is not there.
    """

    def __init__(self, source: Path, scratch: Path | None = None) -> None:
        self.source = source
        self.broken: list[str] = []
        self._readers: dict[str, Callable[[], bytes]] = {}
        self._open, self._scratch = contextlib.ExitStack(), scratch
        self._folder: Path | None = None
        if not source.exists():
            raise DataError(f"There is no folder {source}; give the folder of the downloads.")
        base = source if source.is_dir() else source.parent
        try:
            for path in _files(source):
                self._add(path, path.relative_to(base).parent)
        except BaseException:
            self.close()
            raise
        self.names = sorted(self._readers)

    def _add(self, path: Path, place: Path) -> None:
        name = path.name.lower()
        try:
            if name.endswith(".zip"):
                self._add_zip(path, place)
            elif name.endswith(_ARCHIVES):
                self._add_tar(path if name.endswith(".tar") else self._expanded(path), place)
            else:
                self._readers[(place / path.name).as_posix()] = path.read_bytes
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            shown = self.source / place / path.name if self.source.is_dir() else path
            self.broken.append(
                f"Cannot open {shown}: it is damaged or incomplete ({error}); download it again."
            )

    def _add_zip(self, path: Path, place: Path) -> None:
        archive = self._open.enter_context(zipfile.ZipFile(path))
        for member in archive.infolist():
            inner = place / member.filename
            if member.filename.lower().endswith(_ARCHIVES):
                unpacked = self._temporary(inner.name)
                with archive.open(member) as packed, unpacked.open("wb") as out:
                    shutil.copyfileobj(packed, out)
                self._add(unpacked, inner.parent)
            elif not member.is_dir():
                self._readers[inner.as_posix()] = partial(archive.read, member)

    def _add_tar(self, path: Path, place: Path) -> None:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isreg():
                    reader = partial(_read_at, path, info.offset_data, info.size)
                    self._readers[(place / info.name).as_posix()] = reader

    def _expanded(self, path: Path) -> Path:
        plain = self._temporary(f"{path.name}.tar")
        with gzip.open(path) as packed, plain.open("wb") as out:
            shutil.copyfileobj(packed, out)
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
        """Returns a match for each path whose end, from the start of a name, fits the pattern."""
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
                f"Cannot read {name} in {self.source}: {error}; download it again."
            ) from None

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


def _files(source: Path) -> Iterator[Path]:
    """The files below a folder, through links, each folder once."""
    if source.is_file():
        yield source
        return
    seen: set[str] = set()
    for folder, below, names in os.walk(source, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield from (Path(folder) / name for name in sorted(names))


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{path} is cut off")
    return data


def read_mat(data: bytes, variable: str) -> np.ndarray:
    """Reads one array of a MATLAB file. Raises ValueError if it is not in it."""
    try:
        return np.asarray(scipy.io.loadmat(io.BytesIO(data))[variable])
    except Exception as error:  # a file that is something else makes loadmat fail in any way
        raise ValueError(f"{error}") from None
