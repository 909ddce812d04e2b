"""Finds the image files that a COCO file names among the downloads."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.limits import escapes_folder

_SPLIT_FOLDER = re.compile(r"(?:^|/)(?:train|val|test)(?:20\d\d)?/")
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_LISTED = 3


class CocoImages:
    """Image files by the `file_name` of a COCO file.

    Args:
      downloads: all files.
      split: "train", "val" or "test". Files below a folder of that name, such as train2017/, come
        first; those below the folder of another split are not considered unless the name has it.
      listed: name of the COCO file, for messages.
    """

    def __init__(self, downloads: Downloads, split: str, listed: str) -> None:
        self._source, self._split, self._listed = downloads.source, split, listed
        self._folder = re.compile(rf"(?:^|.*/){split}(?:20\d\d)?/(?P<below>.+)", re.DOTALL)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in downloads.names:
            self._by_name[path.rpartition("/")[2].casefold()].append(path)

    def path(self, file_name: str) -> str:
        """Returns the path of an image among the downloads.

        Args:
          file_name: below the folder of the split, below another folder, or on another machine.

        Raises:
          DataError: there is no such file, or there are several; names similar ones.
        """
        wanted = _plain(file_name)
        similar = self._by_name.get(wanted.rpartition("/")[2].casefold(), [])
        matches = self._matches(wanted, similar)
        if not matches and _is_absolute(file_name):
            parts = wanted.split("/")
            for n in range(1, len(parts) - 1):  # the file's folder stays, as names repeat
                if matches := self._matches("/".join(parts[n:]), similar):
                    break
        if len(matches) > 1:
            raise DataError(
                f"{self._listed} lists {file_name}, and {self._source} has several such files:"
                f" {_some(matches)}; keep one of them, or name its folder in file_name."
            )
        if not matches:
            raise DataError(self._missing(file_name, similar))
        return matches[0]

    def names(self, paths: Sequence[str]) -> list[str]:
        """Returns the names of records: paths below the folder of the split, without suffix.

        The suffix stays where names would differ by it alone.

        Raises:
          DataError: a path holds a line break, a character that is no Unicode, or `..`.
        """
        below = [self._below(path) for path in paths]
        for name in below:
            if _UNWRITABLE.search(name) or escapes_folder(name):
                raise DataError(
                    f"{self._source} has an image {name!r}, and results are saved under its name;"
                    " rename it, without line breaks, dots for folders, or bytes that are no UTF-8."
                )
        stems = [str(PurePosixPath(name).with_suffix("")) for name in below]
        count = Counter(stem.casefold() for stem in stems)
        return [
            stem if count[stem.casefold()] == 1 else name
            for stem, name in zip(stems, below, strict=True)
        ]

    def _below(self, path: str) -> str:
        match = self._folder.match(path)
        return match["below"] if match else path

    def _matches(self, wanted: str, candidates: Sequence[str]) -> list[str]:
        """Returns the files of a name: the first kind of place that has any."""
        in_split = [path for path in candidates if self._folder.match(path)]
        elsewhere = [
            path
            for path in candidates
            if path == wanted or path.endswith(f"/{wanted}")
            if not _SPLIT_FOLDER.search(path.removesuffix(wanted))
        ]
        exact = [path for path in in_split if self._below(path) == wanted]
        return exact or elsewhere

    def _missing(self, file_name: str, similar: Sequence[str]) -> str:
        text = f"{self._listed} lists {file_name}, but {self._source} has no such image"
        if similar:
            return (
                f"{text}; it has {_some(similar)}: file_name is the path below {self._split}2017/"
                f" or {self._split}/, upper and lower case as the file has them."
            )
        suffix = PurePosixPath(_plain(file_name)).suffix
        same = [p for paths in self._by_name.values() for p in paths if self._folder.match(p)]
        if not same:
            return (
                f"{text}, nor any folder {self._split}2017/ or {self._split}/: put the images"
                f" there, or {self._split}2017.zip beside the annotations."
            )
        others = Counter(PurePosixPath(path).suffix for path in same)
        kinds = ", ".join(f"{count} of {kind or 'no suffix'}" for kind, count in others.items())
        where = f"{len(same)} files below {self._split}2017/ or {self._split}/ ({kinds})"
        whole = f"is {self._split}2017.zip whole?" if suffix in others else "was it converted?"
        return f"{text} among the {where}: {whole}"


def _plain(file_name: str) -> str:
    """Returns a file name with slashes, without drive, leading slash, and dots."""
    parts = re.sub(r"^[A-Za-z]:", "", file_name.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def _is_absolute(file_name: str) -> bool:
    return bool(re.match(r"[/\\]|[A-Za-z]:", file_name))


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_LISTED]) + (", ..." if len(paths) > _LISTED else "")
