"""Finds the image files that a COCO file names among the downloads."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.disk import first_few
from data_pipelines.files.limits import escapes_folder

_SPLIT_FOLDER = re.compile(r"(?:^|/)(?:train|val|test)(?:20\d\d)?/")
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


class CocoImages:
    """Image files by the `file_name` of a COCO file.

    Files below a folder of the split, such as train2017/, come first; those below a folder of
    another split count only if `file_name` includes that folder.
    """

    def __init__(self, downloads: Downloads, split: str, coco_file: str) -> None:
        self._source, self._split, self._coco_file = downloads.source, split, coco_file
        self._folder = re.compile(rf"(?:^|.*/){split}(?:20\d\d)?/(?P<below>.+)", re.DOTALL)
        self._paths: dict[str, list[str]] = defaultdict(list)
        """Paths by the last component in lower case."""
        for path in downloads.names:
            self._paths[path.rpartition("/")[2].casefold()].append(path)

    def path(self, file_name: str) -> str:
        """Returns the path of an image; raises DataError if no download or several match.

        `file_name` is below the split's folder, below another folder, or of another machine.
        """
        name = _normalize(file_name)
        similar = self._paths.get(name.rpartition("/")[2].casefold(), [])
        matches = self._match(name, similar)
        if not matches and re.match(r"[/\\]|[A-Za-z]:", file_name):
            parts = name.split("/")
            for n in range(1, len(parts) - 1):  # keeps the file's folder, since names repeat
                if matches := self._match("/".join(parts[n:]), similar):
                    break
        if len(matches) > 1:
            raise DataError(
                f"{self._coco_file} lists {file_name}, and {self._source} has several such files:"
                f" {first_few(matches)}. Keep one of them, or include its folder in file_name."
            )
        if not matches:
            raise DataError(self._missing_message(file_name, similar))
        return matches[0]

    def record_names(self, paths: Sequence[str]) -> list[str]:
        """Returns record names: paths below the split's folder, without suffix if still unique.

        Raises:
          DataError: a name contains a line break, is not UTF-8, or escapes the folder.
        """
        names = [self._below_split(path) for path in paths]
        for name in names:
            if _UNWRITABLE.search(name) or escapes_folder(name):
                raise DataError(
                    f"{self._source} has an image {name!r}, and results are saved under its name."
                    " Rename it to UTF-8 without line breaks or '..'."
                )
        stems = [str(PurePosixPath(name).with_suffix("")) for name in names]
        counts = Counter(stem.casefold() for stem in stems)
        return [
            stem if counts[stem.casefold()] == 1 else name
            for stem, name in zip(stems, names, strict=True)
        ]

    def _below_split(self, path: str) -> str:
        match = self._folder.match(path)
        return match["below"] if match else path

    def _match(self, name: str, candidates: Sequence[str]) -> list[str]:
        """Returns the files of a name below the split's folder, or else elsewhere."""
        in_split = [path for path in candidates if self._folder.match(path)]
        elsewhere = [
            path
            for path in candidates
            if path == name or path.endswith(f"/{name}")
            if not _SPLIT_FOLDER.search(path.removesuffix(name))
        ]
        return [path for path in in_split if self._below_split(path) == name] or elsewhere

    def _missing_message(self, file_name: str, similar: Sequence[str]) -> str:
        split, archive = self._split, f"{self._split}2017.zip"
        folders = f"{split}2017/ or {split}/"
        text = f"{self._coco_file} lists {file_name}, but {self._source} has no such image"
        if similar:
            return (
                f"{text}; it has {first_few(similar)}. file_name must be the path below {folders},"
                " in upper and lower case as the file's."
            )
        in_split = [p for paths in self._paths.values() for p in paths if self._folder.match(p)]
        if not in_split:
            return (
                f"{text}, nor any folder {folders}. Put the images there, or {archive} beside the"
                " annotations."
            )
        suffixes = Counter(PurePosixPath(path).suffix for path in in_split)
        kinds = ", ".join(
            f"{count} of {suffix or 'no suffix'}" for suffix, count in suffixes.items()
        )
        has_suffix = PurePosixPath(_normalize(file_name)).suffix in suffixes
        remedy = (
            f"Check that {archive} is complete."
            if has_suffix
            else "Check whether the images were converted."
        )
        return f"{text} among the {len(in_split)} files below {folders} ({kinds}). {remedy}"


def _normalize(file_name: str) -> str:
    """Returns a file name with slashes, without drive, leading slash and dot components."""
    parts = re.sub(r"^[A-Za-z]:", "", file_name.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))
