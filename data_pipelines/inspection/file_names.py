"""Parses names of image files: their split, and the part that images and labels share."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_SPLIT = re.compile(r"training|train|validation|valid|val|testing|test|dev", re.IGNORECASE)
_TOKEN = re.compile(r"[_\-. ][^_\-. ]*[^\W\d_][^_\-. ]*$")
"""The last part of a name, if it has a letter: "_mask" of "0001_mask"."""
_PREFIX = re.compile(r"[^\W\d_]+[_\-. ]*(?=.)")
"""The letters and separators at the beginning of a name: "mask_" of "mask_0001"."""
_MIN_FRACTION = 0.2
"""Minimum fraction of a folder's files with an ending for it to mark a kind of file."""
_MAX_FILES_OF_IMAGE = 5
"""Maximum number of files in a folder of a single image."""
_MAX_TOKENS = 3
"""Maximum number of parts of an ending: "_gtFine_labelIds" has two."""
PLACEHOLDER = "{split}"


@dataclass(frozen=True)
class Marks:
    """Start and end that a kind of file adds to the name that image and label share.

    Attributes:
      prefix: start of the names, such as "mask_".
      ending: end of the names without file suffix, such as "_mask".
    """

    prefix: str = ""
    ending: str = ""

    def core(self, stem: str) -> str | None:
        """Returns a stem without the marks, in NFC; None if it lacks them."""
        if not (stem.startswith(self.prefix) and stem.endswith(self.ending)):
            return None
        core = stem[len(self.prefix) : len(stem) - len(self.ending)]
        return unicodedata.normalize("NFC", core)


@dataclass(frozen=True)
class ImageFile:
    """The name of a file below the dataset's folder.

    Attributes:
      path: path relative to the dataset's folder.
      folder: components of its folder, with `PLACEHOLDER` for the split.
      split: name of the split; "": none.
      stem: file name without suffix.
      suffix: suffix in lower case, such as ".png".
    """

    path: str
    folder: tuple[str, ...]
    split: str
    stem: str
    suffix: str


def parse_names(paths: Sequence[str]) -> list[ImageFile]:
    """Parses relative paths; folders that differ in the split only get the same `folder`."""
    pures = [PurePosixPath(path) for path in paths]
    folders = _split_folders({pure.parent.parts for pure in pures})
    return [
        ImageFile(path, *folders[pure.parent.parts], pure.stem, pure.suffix.lower())
        for path, pure in zip(paths, pures, strict=True)
    ]


def split_name(name: str) -> tuple[str, str]:
    """Returns a name with `PLACEHOLDER` for its split, and the split; "" for a name without."""
    match = _SPLIT.search(name)
    if match is None:
        return name, ""
    return name[: match.start()] + PLACEHOLDER + name[match.end() :], match[0]


def order_splits(splits: Iterable[str]) -> list[str]:
    """Sorts names of splits: training, validation, test."""
    kinds = ("tr", "v", "d", "te")
    starts = {
        split: [n for n, kind in enumerate(kinds) if split.lower().startswith(kind)]
        for split in splits
    }
    return sorted(starts, key=lambda split: (starts[split] or [-1], split))


def _split_folders(
    folders: Iterable[tuple[str, ...]],
) -> dict[tuple[str, ...], tuple[tuple[str, ...], str]]:
    """Returns each folder with `PLACEHOLDER`, and its split.

    A component such as "train_images" names a split if another folder differs from it in the split
    only, or if it is the split's name alone.
    """
    templates = {folder: _templates(folder) for folder in folders}
    splits: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for template, split in templates.values():
        splits[template].add(split)
    accepted = {split for values in splits.values() if len(values - {""}) > 1 for split in values}
    accepted |= {split for folder, (_, split) in templates.items() if split in folder}

    def resolve(folder: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
        template, split = templates[folder]
        return (template, split) if split in accepted else (folder, "")

    return {folder: resolve(folder) for folder in templates}


def _templates(folder: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Returns a folder with `PLACEHOLDER` wherever its split occurs, and the split."""
    split = next((match[0] for part in folder if (match := _SPLIT.search(part))), "")
    if not split:
        return folder, ""
    return tuple(part.replace(split, PLACEHOLDER, 1) for part in folder), split


def split_path(path: str, others: Iterable[str]) -> tuple[str, str]:
    """Returns a path with `PLACEHOLDER` for its split, and the split.

    The split is "" if no other path differs from this one in the split only.
    """
    template, split = _templates(PurePosixPath(path).parts)
    splits = {
        other_split
        for other in others
        for other_template, other_split in (_templates(PurePosixPath(other).parts),)
        if other_template == template
    }
    return ("/".join(template), split) if len(splits) > 1 else (path, "")


def marks_by_folder(files: Sequence[ImageFile]) -> dict[tuple[str, ...], list[Marks]]:
    """Returns for each folder the marks that its files may bear, the plain name first."""
    stems: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for file in files:
        stems[file.folder].append(file.stem)
    num_folders = Counter(stem for names in stems.values() for stem in set(names))
    return {
        folder: _find_marks(names, [stem for stem in names if num_folders[stem] > 1])
        for folder, names in stems.items()
    }


def _find_marks(stems: Sequence[str], repeated: Sequence[str]) -> list[Marks]:
    """Returns the marks in a folder; `repeated` names are those of files in other folders too."""
    endings = Counter(ending for stem in stems for ending in _endings(stem))
    prefixes = Counter(match[0] for stem in stems if (match := _PREFIX.match(stem)))
    # A folder per image: "image.png" and "mask.png" have nothing in common but the folder.
    endings.update(repeated if len(stems) <= _MAX_FILES_OF_IMAGE else ())
    least = _MIN_FRACTION * len(stems)
    return [
        Marks(),
        *(Marks(ending=ending) for ending, count in endings.items() if count >= least),
        *(Marks(prefix=prefix) for prefix, count in prefixes.items() if count >= least),
    ]


def _endings(stem: str) -> list[str]:
    """Returns the ends of a stem that consist of parts with a letter, shortest first."""
    endings: list[str] = []
    rest = stem
    while len(endings) < _MAX_TOKENS and (match := _TOKEN.search(rest)) and match.start():
        rest = rest[: match.start()]
        endings.append(stem[match.start() :])
    return endings


def common_start(folders: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Returns the components with which all folders begin."""
    columns = zip(*folders, strict=False)
    start: list[str] = []
    for column in columns:
        if len(set(column)) > 1:
            break
        start.append(column[0])
    return tuple(start)


def count_by_suffix(files: Iterable[ImageFile]) -> Mapping[str, int]:
    """Returns the number of files by suffix, the most frequent first."""
    return dict(Counter(file.suffix for file in files).most_common())
