"""Pairs images with labels by the common part of their names, and detects the labels."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from data_pipelines.inspection.file_names import (
    ImageFile,
    Marks,
    common_start,
    marks_by_folder,
)

Folder = tuple[str, ...]
Key = tuple[str, Folder, Folder, str]
"""Split, parent folder, subfolder, and name without marks."""
Pair = tuple[ImageFile, ImageFile]
Flatness = Callable[[str], float]
"""Returns the fraction of pixels of an image file that equal their right neighbor."""

_SAMPLE_FILES = 200
"""Number of files whose names are compared with all others to find out what pairs them."""
_MAX_NAMESAKES = 30
"""Number of files of the same name that are compared with one another."""
_CONTENT_FILES = 3
"""Number of files of each kind that are opened to tell labels from images."""
_MIN_LABEL_FLATNESS = 0.5
"""Labels have areas of one value: in photos, few neighbors are equal."""
_MAX_PHOTO_FLATNESS = 0.8
_CLEAR_DIFFERENCE = 0.2
"""Difference in flatness above which the contents overrule the names."""
_LABEL_WORDS = re.compile(
    r"label|mask|seg|annot|(?<![a-z])gt|ground.?truth|target|parsing|class|manual|trimap", re.I
)
_IMAGE_WORDS = re.compile(r"image|img|jpeg|rgb|photo|input|frame|(?<![a-z])raw", re.I)
_TRAIN_ID_WORDS = re.compile("trainids", re.I)
_OTHER_WORDS = re.compile(
    r"instance|object|color|colour|(?<![a-z])vis|overlay|preview|thumb|depth|edge|dispar|panoptic",
    re.I,
)
"""Words in the names of files that are no label maps of classes, or copies of them."""


@dataclass(frozen=True)
class FileKind:
    """Files of one kind: with the same folder in their paths, and the same marks.

    Attributes:
      folder: the components by which their paths differ from those of their partners.
      marks: start and end of their names.
      suffix: their file suffix, if only the suffix distinguishes them from others; else "".
    """

    folder: Folder
    marks: Marks
    suffix: str = ""

    def keys(self, file: ImageFile) -> list[Key]:
        """Returns the keys that a file may share with its partner; none for another kind."""
        core = self.marks.core(file.stem)
        if core is None or self.suffix not in ("", file.suffix):
            return []
        length, path = len(self.folder), file.folder
        return [
            (file.split, path[:n], path[n + length :], core)
            for n in range(len(path) - length + 1)
            if path[n : n + length] == self.folder
        ]

    @property
    def words(self) -> str:
        """Folder, prefix and ending, whose words indicate images or labels."""
        return "/".join((*self.folder, self.marks.prefix, self.marks.ending))


@dataclass(frozen=True)
class Match:
    """Images and their labels.

    Attributes:
      images: the kind of the images.
      labels: the kind of the labels.
      pairs: image and label.
      folders: folder of the images and of the labels, below which the pairs have the same paths;
        empty if there are several such.
      image_flatness: mean flatness of some of the images.
      unpaired: number of images without label.
      doubts: other interpretations of the files.
    """

    images: FileKind
    labels: FileKind
    pairs: tuple[Pair, ...]
    folders: tuple[Folder, ...]
    image_flatness: float
    unpaired: int = 0
    doubts: tuple[str, ...] = ()


def match_files(files: Sequence[ImageFile], flatness: Flatness) -> Match | None:
    """Returns the best pairing of images with labels; None if there is none."""
    counts = _count_kinds(files)
    most = max(counts.values(), default=0)
    common = [kinds for kinds, count in counts.most_common(20) if count >= most / 2]
    matches = []
    for first, second in common:
        pairs = _pair(files, first, second)
        match = _order(first, second, pairs, flatness) if pairs else None
        if match is not None:
            matches.append(match)
    matches.sort(key=_rank, reverse=True)
    if not matches:
        return None
    return _describe_others(_count_unpaired(matches[0], files), matches[1:])


def _count_kinds(files: Sequence[ImageFile]) -> Counter[tuple[FileKind, FileKind]]:
    """Counts, for a sample of files, by which kinds of files they are paired with others."""
    marks = marks_by_folder(files)
    by_core: dict[tuple[str, str], list[tuple[ImageFile, Marks]]] = defaultdict(list)

    def core_key(file: ImageFile, mark: Marks) -> tuple[str, str]:
        core = mark.core(file.stem)
        return file.split, core or "/".join((*file.folder, ""))

    for file in files:
        for mark in marks[file.folder]:
            if mark.core(file.stem) is not None:
                by_core[core_key(file, mark)].append((file, mark))
    counts: Counter[tuple[FileKind, FileKind]] = Counter()
    for file in files[:: -(-len(files) // _SAMPLE_FILES) or 1]:
        partners = set()
        for mark in marks[file.folder]:
            if mark.core(file.stem) is None:
                continue
            for other, other_mark in by_core[core_key(file, mark)][:_MAX_NAMESAKES]:
                if other is not file and (mark.prefix == "") == (other_mark.prefix == ""):
                    partners.add(_kinds(file, mark, other, other_mark))
        counts.update(partners)
    return counts


def _kinds(
    file: ImageFile, mark: Marks, other: ImageFile, other_mark: Marks
) -> tuple[FileKind, FileKind]:
    """Returns the kinds by which two files are a pair, in a canonical order."""
    head, other_head = _strip_tail(file.folder, other.folder)
    start = len(common_start((head, other_head)))
    suffixes = (file.suffix, other.suffix) if head == other_head else ("", "")
    kinds = [
        FileKind(head[start:], mark, suffixes[0]),
        FileKind(other_head[start:], other_mark, suffixes[1]),
    ]
    first, second = sorted(
        kinds, key=lambda kind: (kind.folder, kind.marks.prefix, kind.marks.ending, kind.suffix)
    )
    return first, second


def _strip_tail(first: Folder, second: Folder) -> tuple[Folder, Folder]:
    """Strips the subfolders that two folders share."""
    shared = len(common_start((first[::-1], second[::-1])))
    return first[: len(first) - shared], second[: len(second) - shared]


def _pair(files: Sequence[ImageFile], first: FileKind, second: FileKind) -> list[Pair]:
    """Returns the pairs of two kinds; a file of both kinds is of the one with longer marks."""
    longer = int(len(second.words + second.suffix) > len(first.words + first.suffix))
    sides: tuple[dict[Key, ImageFile], dict[Key, ImageFile]] = ({}, {})
    for file in files:
        keys = (first.keys(file), second.keys(file))
        side = longer if all(keys) else int(not keys[0])
        for key in keys[side]:
            sides[side].setdefault(key, file)
    pairs = {file.path: (file, sides[1][key]) for key, file in sides[0].items() if key in sides[1]}
    return list(pairs.values())


def _folders(first: FileKind, second: FileKind, pairs: Sequence[Pair]) -> tuple[Folder, ...]:
    """Returns the folders of both kinds below which pairs have the same paths, if unique."""
    if not (first.folder or second.folder):
        start = common_start([file.folder for file, _ in pairs])
        return start, start
    heads = set()
    tails = []
    for file, other in pairs:
        head, other_head = _strip_tail(file.folder, other.folder)
        heads.add((head, other_head))
        tails.append(file.folder[len(head) :])
    if len(heads) > 1:
        return ()
    # Subfolders that all share, such as one of the split, belong to the folders.
    shared = common_start(tails)
    ((head, other_head),) = heads
    return head + shared, other_head + shared


def _order(
    first: FileKind, second: FileKind, pairs: list[Pair], flatness: Flatness
) -> Match | None:
    """Returns the match with the labels as the second kind; None if neither kind is labels."""
    sample = pairs[:: -(-len(pairs) // _CONTENT_FILES)]
    flat = [sum(flatness(pair[side].path) for pair in sample) / len(sample) for side in (0, 1)]
    words = [_label_words(kind) for kind in (first, second)]
    named = words[0] != words[1]
    side = int(words[1] > words[0])  # of the labels
    doubts: tuple[str, ...] = ()
    if not named or flat[1 - side] - flat[side] > _CLEAR_DIFFERENCE:
        side = int(flat[1] > flat[0])
        if named:
            doubts = ("the names of folders or files say the opposite of what they contain",)
    if flat[side] < _MIN_LABEL_FLATNESS and words[side] <= 0:
        return None
    # Without a word such as "mask_", two beginnings may be those of different images.
    if (prefix := (first, second)[side].marks.prefix) and not _LABEL_WORDS.search(prefix):
        return None
    if not side:
        first, second = second, first
        pairs = [(image, label) for label, image in pairs]
    folders = _folders(first, second, pairs)
    return Match(first, second, tuple(pairs), folders, flat[1 - side], doubts=doubts)


def _label_words(kind: FileKind) -> int:
    # An ending tells more than a folder: masks often lie in a folder of images.
    parts = (*kind.folder, kind.marks.prefix, kind.marks.ending)
    for part in reversed(parts):
        if _LABEL_WORDS.search(part):
            return 1
        if _IMAGE_WORDS.search(part):
            return -1
    return 0


def _rank(match: Match) -> tuple[int, ...]:
    """Prefers photos to labels as images, class maps to others, more pairs, and plain names."""
    words = match.labels.words
    return (
        -(match.image_flatness > _MAX_PHOTO_FLATNESS),
        -max(0, _label_words(match.images)),
        -bool(match.labels.marks.prefix),
        -bool(_OTHER_WORDS.search(words)),
        bool(_TRAIN_ID_WORDS.search(words)),
        len(match.pairs),
        -len(match.images.marks.prefix + match.images.marks.ending + match.labels.marks.prefix),
    )


def _count_unpaired(match: Match, files: Sequence[ImageFile]) -> Match:
    """Counts the images without label in the splits that have labels."""
    splits = {image.split for image, _ in match.pairs}
    paired = {file.path for pair in match.pairs for file in pair}
    folders = {image.folder for image, _ in match.pairs}
    unpaired = [
        file
        for file in files
        if file.split in splits
        and file.folder in folders
        and file.path not in paired
        and match.images.keys(file)
        and not match.labels.keys(file)
    ]
    return replace(match, unpaired=len(unpaired))


def _describe_others(match: Match, others: Sequence[Match]) -> Match:
    """Adds the other label files of the images to the doubts."""
    descriptions = list(_other_labels(match, others))
    if not descriptions:
        return match
    doubt = f"other files are paired with the images too, and not used: {', '.join(descriptions)}"
    return replace(match, doubts=(*match.doubts, doubt))


def _other_labels(match: Match, others: Sequence[Match]) -> Iterator[str]:
    labels = {label.path for _, label in match.pairs}
    images = {image.path for image, _ in match.pairs}
    for other in others:
        paths = {label.path for _, label in other.pairs}
        if paths.isdisjoint(labels) and paths.isdisjoint(images):
            labels |= paths
            yield min(paths)
