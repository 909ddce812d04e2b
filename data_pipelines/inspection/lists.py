"""Finds list files: of image and label pairs, or of the names of a split's images."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.errors import DataError
from data_pipelines.files.disk import decode_text
from data_pipelines.inspection.file_names import split_name
from data_pipelines.sources.image_list import read_pairs
from gsto_jax.files import IMAGE_SUFFIXES

PathPairs = list[tuple[Path, Path]]

_SUFFIXES = (".txt", ".lst", ".list", ".csv", ".tsv", "")
_MAX_LISTS = 100
"""Maximum number of text files that are opened; more belong to single images."""
_PROBED_LINES = 5
_MIN_LISTED = 0.9
"""Fraction of a list's lines that must name images for it to be one of a split."""


def find_pair_lists(root: Path, paths: Sequence[str]) -> tuple[str, dict[str, PathPairs]]:
    """Finds lists of lines "image label", whose paths are relative to the root.

    Returns:
      Path of the lists with {split} in place of the split, and the pairs of each split; the split
      of a single list is "". Without lists the path is "".
    """
    lists: dict[str, dict[str, PathPairs]] = defaultdict(dict)
    for path in _text_files(paths):
        if pairs := _read_list(root / path, root):
            name = PurePosixPath(path)
            template, split = split_name(name.name)
            lists[str(name.with_name(template))][split] = pairs
    if not lists:
        return "", {}
    return max(lists.items(), key=lambda item: sum(map(len, item[1].values())))


def _read_list(path: Path, root: Path) -> PathPairs:
    """Returns the pairs of a list file; none if it is no list of existing images and labels."""
    try:
        data = path.read_bytes()
        lines = [line for line in decode_text(data, path).splitlines() if line.strip()]
        probe = "\n".join(lines[:_PROBED_LINES]).encode("utf-8", "surrogateescape")
        for text in (probe, data):
            pairs = [(image, label) for _, image, label in read_pairs(text, path, root)]
            if not pairs or not all(
                _is_image(file) for pair in pairs[:_PROBED_LINES] for file in pair
            ):
                return []
    except (OSError, DataError):
        return []
    return pairs


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def find_name_lists(
    root: Path, paths: Sequence[str], pairs: Sequence[tuple[Path, Path]]
) -> tuple[str, dict[str, PathPairs]]:
    """Finds lists of the images of each split, by name, such as train.txt and val.txt.

    Returns:
      Path of the lists with {split} in place of the split, and the pairs of each split; without
      lists of two splits at least, the path is "".
    """
    by_name = {name: pair for pair in pairs for name in _names(pair[0], root)}
    lists: dict[str, dict[str, PathPairs]] = defaultdict(dict)
    for path in _text_files(paths):
        name = PurePosixPath(path)
        template, split = split_name(name.name)
        if not split or "{split}val" in template:  # trainval.txt
            continue
        if listed := _read_names(root / path, by_name):
            lists[str(name.with_name(template))][split] = listed
    complete = [(path, splits) for path, splits in lists.items() if len(splits) > 1]
    return max(complete, key=lambda item: sum(map(len, item[1].values())), default=("", {}))


def _names(image: Path, root: Path) -> Iterator[str]:
    """Yields the names by which a list may call an image."""
    relative = image.relative_to(root)
    yield from (image.stem, image.name, str(relative), str(relative.with_suffix("")))


def _read_names(path: Path, by_name: Mapping[str, tuple[Path, Path]]) -> PathPairs:
    try:
        lines = [line.strip() for line in decode_text(path.read_bytes(), path).splitlines()]
    except (OSError, DataError):
        return []
    lines = [line for line in lines if line]
    matches = [by_name.get(line) or by_name.get(line.split()[0]) for line in lines]
    pairs = [match for match in matches if match is not None]
    return pairs if len(pairs) >= max(1, _MIN_LISTED * len(lines)) else []


def _text_files(paths: Sequence[str]) -> list[str]:
    """Returns the paths that may be lists, those near the root first."""
    texts = [path for path in paths if PurePosixPath(path).suffix.lower() in _SUFFIXES]
    return sorted(texts, key=lambda path: (path.count("/"), path))[:_MAX_LISTS]


def list_text(pairs: Sequence[tuple[Path, Path]], root: Path) -> str:
    """Returns the text of a list file of pairs."""
    lines = ("\t".join(path.relative_to(root).as_posix() for path in pair) for pair in pairs)
    return "".join(f"{line}\n" for line in lines)
