"""Reads list files of `image label` lines as written on any system."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files.disk import FileLookup, decode_text
from data_pipelines.files.limits import escapes_folder

_QUOTED = re.compile(r"""(?:"([^"]+)"|(\S+?))[\s,;]+(?:"([^"]+)"|(\S+))""")
_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")


def read_pairs(data: bytes, path: Path, root: Path) -> list[tuple[str, Path, Path]]:
    """Reads a list of image and label files.

    A line names an image and its label, separated by a tab if it has one. Names with spaces may be
    quoted; otherwise the line is split at the space, comma or semicolon at which both sides name
    files. Empty lines are skipped, and lines that begin with "#" unless they name files. So is a
    first line of two words, such as "image,label", that name no file.

    Returns:
      For each line the image's path as written (relative to the root), the image file and the label
      file.

    Raises:
      DataError: a line is no pair, is ambiguous, or leaves the root.
    """
    pairs: list[tuple[str, Path, Path]] = []
    folder = _Folder(root, FileLookup())
    for number, line in enumerate(re.split(r"\r\n|\r|\n", decode_text(data, path)), start=1):
        line = line.strip()
        if line and not _is_comment(line, folder) and (pairs or not _is_header(line, folder)):
            pairs.append(_parse_line(line, f"{path}, line {number}", folder))
    return pairs


@dataclass(frozen=True)
class _Folder:
    """The folder to which listed paths are relative."""

    root: Path
    lookup: FileLookup

    def find(self, name: str) -> Path | None:
        """Resolves a listed path to an existing file; returns None if there is none."""
        if escapes_folder(name):
            return None
        paths = (self.root / spelling for spelling in _spellings(name))
        return next((path for path in paths if self.lookup.is_file(path)), None)

    def has(self, names: tuple[str, str]) -> bool:
        """Returns whether both paths are those of existing files."""
        return all(self.find(name) for name in names)


def _is_comment(line: str, folder: _Folder) -> bool:
    return line.startswith("#") and not any(map(folder.has, _split_line(line)))


def _is_header(line: str, folder: _Folder) -> bool:
    """Returns whether a line names the columns of a table."""
    words = [word for pair in _split_line(line) for word in pair]
    return len(words) == 2 and all(word.isidentifier() and not folder.find(word) for word in words)


def _parse_line(line: str, location: str, folder: _Folder) -> tuple[str, Path, Path]:
    candidates, root = _split_line(line), folder.root
    if len(candidates) > 1:
        existing = [pair for pair in candidates if folder.has(pair)]
        if len(existing) > 1:
            raise DataError(
                f"{location}: {line!r} can be read as {existing[0]} and as {existing[1]}."
                " Separate image and label by a tab."
            )
        candidates = existing
    if not candidates:
        raise DataError(
            f"{location}: {line!r} must be `image label`, two files relative to {root}. Separate"
            " them by a tab, or by a space if their names have none."
        )
    image, label = candidates[0]
    for name in (image, label):
        if escapes_folder(name) or re.match(r"[A-Za-z]:[/\\]", name):
            raise DataError(
                f"{location}: {name} is outside the dataset. Use paths relative to {root}, without"
                " '..'."
            )
    return image, folder.find(image) or root / image, folder.find(label) or root / label


def _split_line(line: str) -> list[tuple[str, str]]:
    """Returns the pairs that a line may stand for."""
    if "\t" in line:
        fields = [field.strip().strip('"') for field in line.split("\t") if field.strip()]
        return [(fields[0], fields[1])] if len(fields) == 2 else []
    if '"' in line and (match := _QUOTED.fullmatch(line)):
        image, unquoted_image, label, unquoted_label = match.groups()
        return [(image or unquoted_image, label or unquoted_label)]
    return [(line[: gap.start()], line[gap.end() :]) for gap in _SEPARATOR.finditer(line)]


def _spellings(name: str) -> Iterator[str]:
    """Yields a path as written, then its spellings on other systems and in other encodings."""
    yield name
    posix = name.replace("\\", "/")
    texts = [posix]
    try:
        name.encode()
    except UnicodeEncodeError:  # a list in Windows-1252 of files with names in UTF-8
        texts.append(posix.encode("utf-8", "surrogateescape").decode("cp1252", "replace"))
    for text in texts:
        for normalization in ("NFC", "NFD"):  # macOS decomposes accents
            if (spelling := unicodedata.normalize(normalization, text)) != name:
                yield spelling
