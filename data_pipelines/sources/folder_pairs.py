"""Which files of two folders are an image and its label, and which are left over."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few, list_files, strip_suffix
from gsto_jax.files import IMAGE_SUFFIXES, TEXT_SUFFIXES


@dataclass(frozen=True)
class Pairs:
    """The images of a split with their labels.

    Attributes:
        stems: paths of the images relative to their folder, less the suffix.
        images: files.
        labels: files.
        warnings: what is left over, in words.
    """

    stems: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    warnings: tuple[str, ...]


def pair_folders(
    images: Path, labels: Path, image_suffix: str, label_suffix: str, limit: int = 0
) -> Pairs:
    """Pairs the images below a folder with the labels below another one.

    A label has its image's path with another suffix. Suffixes are compared without regard to case.

    Args:
        images: folder of the images.
        labels: folder of the labels; may be the same, or lie in the other.
        image_suffix: such as "_leftImg8bit.png"; empty: that of any image format.
        label_suffix: likewise.
        limit: uses the first so many images; 0 for all.

    Raises:
        DataError: no image, images without a label, or two labels of one image.
    """
    image_files = _split_by_suffix(images, labels, image_suffix, label_suffix)
    label_files = _split_by_suffix(labels, images, label_suffix, image_suffix)
    if not image_files.matching:
        raise _nothing(images, image_suffix, image_files.others)
    chosen = dict(list(image_files.matching.items())[: limit or None])
    by_stem: dict[str, list[str]] = {}
    for label, stem in label_files.matching.items():
        by_stem.setdefault(stem, []).append(label)
    orphans = [
        label
        for stem in by_stem.keys() - set(image_files.matching.values())
        for label in by_stem[stem]
    ]
    unlabeled = [image for image, stem in chosen.items() if stem not in by_stem]
    if unlabeled:
        expected = _expected(chosen[unlabeled[0]], label_suffix, orphans, label_files.others)
        raise DataError(
            f"{len(unlabeled)} of the {len(chosen)} images in {images} have no label in {labels}:"
            f" {first_few(unlabeled)}{expected}."
            " Label them, take them out, or correct image_suffix and label_suffix."
        )
    for image, stem in chosen.items():
        if len(by_stem[stem]) > 1:
            raise DataError(
                f"{images / image} has several labels in {labels}: {first_few(by_stem[stem])};"
                " remove all but one, or give label_suffix."
            )
    return Pairs(
        stems=tuple(chosen.values()),
        images=tuple(images / image for image in chosen),
        labels=tuple(labels / by_stem[stem][0] for stem in chosen.values()),
        warnings=(
            *_left_over(images, image_suffix, image_files.others),
            *_without_image(orphans, images, labels),
            *_shared(chosen, labels),
        ),
    )


@dataclass(frozen=True)
class _Files:
    matching: dict[str, str]
    """Stem by path, sorted by path."""
    others: list[str]


def _split_by_suffix(folder: Path, other: Path, suffix: str, other_suffix: str) -> _Files:
    """Lists the files of a folder by whether they have the suffix."""
    same = os.path.realpath(folder) == os.path.realpath(other)
    if same and suffix.lower() == other_suffix.lower():
        raise DataError(
            f"{folder} holds images and labels, and both have the suffix {suffix!r}; give"
            " label_suffix what only labels end with."
        )
    # "x_mask.png" ends with ".png" too: the longer suffix says what it is.
    by_other = same and len(other_suffix) > len(suffix)
    names = list_files(folder, () if same else (other,))
    if by_other:
        names = [name for name in names if strip_suffix(name, other_suffix) is None]
    stems = {name: strip_suffix(name, suffix) for name in names}
    others = [name for name, stem in stems.items() if stem is None]
    if same:
        others = [name for name in others if strip_suffix(name, other_suffix) is None]
    return _Files({name: stem for name, stem in stems.items() if stem is not None}, others)


def _expected(stem: str, label_suffix: str, orphans: list[str], others: list[str]) -> str:
    """Returns which label was looked for, and what lies there instead."""
    text = f" (looked for {stem}{label_suffix or '.png or another image format'})"
    if orphans:
        text += f"; {len(orphans)} labels have no image: {first_few(sorted(orphans))}"
    elif others:
        text += f"; the label folder holds {first_few(others)}"
    return text


def _nothing(images: Path, suffix: str, others: list[str]) -> DataError:
    wanted = (
        f"that ends in {suffix!r}"
        if suffix
        else f"of an image format ({', '.join(IMAGE_SUFFIXES)})"
    )
    holds = f" (it holds {first_few(others)})" if others else ""
    return DataError(
        f"{images} has no file {wanted}{holds}; check images, image_suffix and the split."
    )


def _left_over(images: Path, suffix: str, others: list[str]) -> list[str]:
    """Returns a warning for the files beside the images that may have been meant."""
    ending = {name: os.path.splitext(name)[1].lower() for name in others}
    meant = [x for x in others if ending[x] not in TEXT_SUFFIXES]
    if not meant:
        return []
    kinds = Counter(ending[name] for name in meant)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    reason = f"names without {suffix!r}, image_suffix" if suffix else "no image format that is read"
    noun = "file is" if len(meant) == 1 else "files are"
    return [f"{images}: {len(meant)} {noun} left out ({told}; {reason}): {first_few(meant)}"]


def _without_image(orphans: list[str], images: Path, labels: Path) -> list[str]:
    if not orphans:
        return []
    count, names = len(orphans), first_few(sorted(orphans))
    noun = "label has" if count == 1 else "labels have"
    return [f"{labels}: {count} {noun} no image in {images}: {names}"]


def _shared(chosen: dict[str, str], labels: Path) -> list[str]:
    """Returns a warning for images that differ in suffix alone, so that one label serves both."""
    counts = Counter(chosen.values())
    doubles = [image for image, stem in chosen.items() if counts[stem] > 1]
    if not doubles:
        return []
    return [
        f"{labels}: {len(doubles)} images differ from another one in suffix alone and share its"
        f" label: {first_few(doubles)}"
    ]
