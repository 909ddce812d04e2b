"""Files as they were downloaded: folders, zips and tars, seen as one tree."""

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

_SHOWN = 5


class Downloads:
    """The files below a folder, members of its archives among them, by their paths.

    A member's path starts where its archive lies. Nothing is unpacked, except that a compressed
    tar is expanded to a plain one in a temporary folder, for random access.

    Args:
        source: a folder, or one archive.

    Attributes:
        source: the same.
        names: paths relative to the source, sorted.

    Raises:
        DataError: the source is not there, or an archive in it is damaged.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._readers: dict[str, Callable[[], bytes]] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if source.is_dir():
            files = sorted(path for path in source.rglob("*") if path.is_file())
        elif source.is_file():
            files = [source]
        else:
            raise DataError(f"There is no folder {source}; give the folder of the downloads.")
        base = source if source.is_dir() else source.parent
        for path in files:
            place = path.relative_to(base).parent
            try:
                for name, reader in self._members(path):
                    self._readers[(place / name).as_posix()] = reader
            except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
                self.close()
                raise DataError(
                    f"Cannot open {path}: it is damaged or incomplete ({error}); download it again."
                ) from None
        self.names = sorted(self._readers)

    def _members(self, path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
        name = path.name.lower()
        if name.endswith(".zip"):
            archive = zipfile.ZipFile(path)
            for member in archive.infolist():
                if not member.is_dir():
                    yield member.filename, partial(archive.read, member)
        elif name.endswith((".tar", ".tar.gz", ".tgz")):
            plain = path if name.endswith(".tar") else self._expanded(path)
            with tarfile.open(plain, "r:") as tar:
                for info in tar:
                    if info.isreg():
                        yield info.name, partial(_read_at, plain, info.offset_data, info.size)
        else:
            yield path.name, path.read_bytes

    def _expanded(self, path: Path) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="gsto-")
        plain = Path(self._scratch.name) / f"{len(os.listdir(self._scratch.name))}.tar"
        with gzip.open(path) as packed, plain.open("wb") as out:
            shutil.copyfileobj(packed, out)
        return plain

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
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"Cannot read {name} in {self.source}: {error}.") from None

    def summary(self) -> str:
        """Returns what is there, in words."""
        if not self.names:
            return "no file at all"
        step = max(1, len(self.names) // _SHOWN)
        shown = ", ".join(self.names[::step][:_SHOWN])
        return f"{len(self.names)} files, such as {shown}"

    def close(self) -> None:
        """Removes what was expanded."""
        if self._scratch is not None:
            self._scratch.cleanup()


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
