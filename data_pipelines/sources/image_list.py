"""List files of `image label` lines, as people's systems write them."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files.disk import decode_text
from data_pipelines.files.limits import escapes_folder

_QUOTED = re.compile(r"""(?:"([^"]+)"|(\S+?))[\s,;]+(?:"([^"]+)"|(\S+))""")
_BETWEEN = re.compile(r"\s*[,;]\s*|\s+")


def read_pairs(data: bytes, path: Path, root: Path) -> list[tuple[str, str, Path, Path]]:
    """Reads a list of image and label files.

    Each line names an image and its label. A tab separates them where there is one. Names with
    spaces may stand in quotes; else the line is split at the blank, comma or semicolon at which
    both parts name files. Empty lines are left out, as are those that begin with "#" and name
    no files.

    Args:
        data: the content of the list.
        path: of the list, for messages.
        root: the folder that its paths are relative to.

    Returns:
        For each line both paths as they are written, and the files that they name.

    Raises:
        DataError: a line is no pair, can be read in two ways, or leads out of the root.
    """
    pairs = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", decode_text(data, path)), start=1):
        line = line.strip()
        if line and not _is_comment(line, root):
            pairs.append(_pair(line, f"{path}, line {number}", root))
    return pairs


def _is_comment(line: str, root: Path) -> bool:
    """Returns whether a line begins with "#" and names no files."""
    return line.startswith("#") and not any(
        all(_find(root, name) for name in pair) for pair in _readings(line)
    )


def _pair(line: str, place: str, root: Path) -> tuple[str, str, Path, Path]:
    readings = _readings(line)
    if len(readings) > 1:
        existing = [pair for pair in readings if all(_find(root, name) for name in pair)]
        if len(existing) > 1:
            raise DataError(
                f"{place}: {line!r} can be read as {existing[0]} and as {existing[1]}; separate"
                " image and label by a tab."
            )
        readings = existing
    if not readings:
        raise DataError(
            f"{place}: {line!r} is not `image label`, two files relative to {root}; separate them"
            " by a tab, or by a space if their names hold none."
        )
    image, label = readings[0]
    for name in (image, label):
        if escapes_folder(name) or re.match(r"[A-Za-z]:[/\\]", name):
            raise DataError(
                f"{place}: {name} lies outside the dataset; give paths relative to {root}, without"
                " '..'."
            )
    files = [_find(root, name) or root / name for name in (image, label)]
    return image, label, files[0], files[1]


def _readings(line: str) -> list[tuple[str, str]]:
    """Returns the pairs that a line may stand for."""
    if "\t" in line:
        fields = [field.strip().strip('"') for field in line.split("\t") if field.strip()]
        return [(fields[0], fields[1])] if len(fields) == 2 else []
    if '"' in line and (quoted := _QUOTED.fullmatch(line)):
        image, plain_image, label, plain_label = quoted.groups()
        return [(image or plain_image, label or plain_label)]
    return [(line[: gap.start()], line[gap.end() :]) for gap in _BETWEEN.finditer(line)]


def _find(root: Path, name: str) -> Path | None:
    """Returns the file that a path of a list stands for; None where there is none."""
    if escapes_folder(name):
        return None
    for spelling in _spellings(name):
        if os.path.isfile(root / spelling):
            return root / spelling
    return None


def _spellings(name: str) -> Iterator[str]:
    """Yields a path as it is written, then as another system or encoding would have it."""
    yield name
    plain = name.replace("\\", "/")
    texts = [plain]
    try:
        name.encode()
    except UnicodeEncodeError:  # a list in Windows' encoding, of files with names in UTF-8
        texts.append(plain.encode("utf-8", "surrogateescape").decode("cp1252", "replace"))
    for text in texts:
        for form in ("NFC", "NFD"):  # macOS decomposes accents
            if (spelling := unicodedata.normalize(form, text)) != name:
                yield spelling
