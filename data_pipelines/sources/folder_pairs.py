"""Pairs the image files below one folder with the label files below another."""

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few, list_files, strip_suffix
from gsto_jax.files import IMAGE_SUFFIXES, TEXT_SUFFIXES


@dataclass(frozen=True)
class Pairs:
    """The images of a split with their labels.

    Attributes:
      stems: paths of the images relative to their folder, without suffix.
      images: the image files.
      labels: the label files.
      warnings: messages about files left over.
    """

    stems: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    warnings: tuple[str, ...]


def pair_folders(
    images: Path,
    labels: Path,
    image_suffix: str,
    label_suffix: str,
    *,
    limit: int = 0,
    labeled_only: bool = False,
) -> Pairs:
    """Pairs images with the labels of the same path but for the suffix, whose case is ignored.

    Args:
      images: folder of the images.
      labels: folder of the labels; may be the same, or one inside the other.
      image_suffix: suffix of images, such as "_leftImg8bit.png"; "": any image format.
      label_suffix: likewise.
      limit: number of images to use, the first ones; 0: all.
      labeled_only: leaves out images without label.

    Raises:
      DataError: no image, images without label, or several labels of one image.
    """
    image_files = _split_by_suffix(images, labels, image_suffix, label_suffix)
    label_files = _split_by_suffix(labels, images, label_suffix, image_suffix)
    if not image_files.stems:
        raise _no_images_error(images, image_suffix, image_files.unmatched)
    labels_by_stem: dict[str, list[str]] = {}
    for label, stem in label_files.stems.items():
        labels_by_stem.setdefault(stem, []).append(label)
    stems = image_files.stems
    if labeled_only:
        stems = {image: stem for image, stem in stems.items() if stem in labels_by_stem}
        if not stems:
            raise DataError(f"{labels} has no label of an image in {images}. Check both.")
    chosen = dict(list(stems.items())[: limit or None])
    without_image = sorted(
        label
        for stem in labels_by_stem.keys() - set(image_files.stems.values())
        for label in labels_by_stem[stem]
    )
    without_label = [image for image, stem in chosen.items() if stem not in labels_by_stem]
    if without_label:
        label = f"{chosen[without_label[0]]}{label_suffix or '.png or another image format'}"
        raise DataError(
            f"{len(without_label)} of the {len(chosen)} images in {images} have no label in"
            f" {labels}: {first_few(without_label)} (looked for {label})"
            f"{_describe_other_labels(without_image, label_files.unmatched)}."
            " Add the labels, remove the images, or correct image_suffix and label_suffix."
        )
    _check_single_labels(chosen, labels_by_stem, images, labels)
    return Pairs(
        stems=tuple(chosen.values()),
        images=tuple(images / image for image in chosen),
        labels=tuple(labels / labels_by_stem[stem][0] for stem in chosen.values()),
        warnings=(
            *_unmatched_warning(images, image_suffix, image_files.unmatched),
            *_without_image_warning(without_image, images, labels),
            *_shared_label_warning(chosen, labels),
        ),
    )


def _check_single_labels(
    stems: Mapping[str, str], labels_by_stem: Mapping[str, list[str]], images: Path, labels: Path
) -> None:
    """Raises DataError if an image has several labels; `stems` are those of the images."""
    for image, stem in stems.items():
        if len(labels_by_stem[stem]) > 1:
            raise DataError(
                f"{images / image} has several labels in {labels}:"
                f" {first_few(labels_by_stem[stem])}. Remove all but one, or set label_suffix."
            )


@dataclass(frozen=True)
class _Files:
    stems: dict[str, str]
    """Path without suffix by path, of the files with the suffix; sorted by path."""
    unmatched: list[str]
    """Paths of the files with another suffix."""


def _split_by_suffix(folder: Path, other: Path, suffix: str, other_suffix: str) -> _Files:
    """Lists the files of a folder by whether they have the suffix."""
    same = os.path.realpath(folder) == os.path.realpath(other)
    if same and suffix.lower() == other_suffix.lower():
        raise DataError(
            f"label_suffix must differ from image_suffix, since {folder} contains images and"
            f" labels; got {suffix!r} for both. Set label_suffix to a suffix that only labels have."
        )
    names = list_files(folder, () if same else (other,))
    # "x_mask.png" ends with ".png" too: the longer suffix decides.
    if same and len(other_suffix) > len(suffix):
        names = [name for name in names if strip_suffix(name, other_suffix) is None]
    stems = {name: strip_suffix(name, suffix) for name in names}
    unmatched = [name for name, stem in stems.items() if stem is None]
    if same:
        unmatched = [name for name in unmatched if strip_suffix(name, other_suffix) is None]
    # macOS decomposes accents in the names that it creates.
    return _Files(
        {name: unicodedata.normalize("NFC", stem) for name, stem in stems.items() if stem},
        unmatched,
    )


def _describe_other_labels(without_image: list[str], unmatched: list[str]) -> str:
    """Describes the files of the label folder that are labels of no image; "" if there are none."""
    if without_image:
        return f"; {len(without_image)} labels have no image: {first_few(without_image)}"
    return f"; the label folder contains {first_few(unmatched)}" if unmatched else ""


def _no_images_error(images: Path, suffix: str, unmatched: list[str]) -> DataError:
    kind = (
        f"that ends in {suffix!r}" if suffix else f"of a format among {', '.join(IMAGE_SUFFIXES)}"
    )
    contents = f" (it contains {first_few(unmatched)})" if unmatched else ""
    return DataError(
        f"{images} has no file {kind}{contents}. Check images, image_suffix and the split."
    )


def _unmatched_warning(images: Path, suffix: str, unmatched: list[str]) -> list[str]:
    """Returns a warning about files among the images that may be images too."""
    extensions = {name: os.path.splitext(name)[1].lower() for name in unmatched}
    suspects = [name for name in unmatched if extensions[name] not in TEXT_SUFFIXES]
    if not suspects:
        return []
    counts = Counter(extensions[name] for name in suspects)
    kinds = ", ".join(f"{count} {extension}" for extension, count in sorted(counts.items()))
    reason = f"names without {suffix!r}, image_suffix" if suffix else "no supported image format"
    noun = "file is" if len(suspects) == 1 else "files are"
    return [f"{images}: {len(suspects)} {noun} left out ({kinds}; {reason}): {first_few(suspects)}"]


def _without_image_warning(without_image: list[str], images: Path, labels: Path) -> list[str]:
    if not without_image:
        return []
    noun = "label has" if len(without_image) == 1 else "labels have"
    return [
        f"{labels}: {len(without_image)} {noun} no image in {images}: {first_few(without_image)}"
    ]


def _shared_label_warning(chosen: dict[str, str], labels: Path) -> list[str]:
    """Returns a warning about images that differ in suffix only, and so share a label."""
    counts = Counter(chosen.values())
    duplicates = [image for image, stem in chosen.items() if counts[stem] > 1]
    if not duplicates:
        return []
    return [
        f"{labels}: {len(duplicates)} images differ from another one in suffix only and share its"
        f" label: {first_few(duplicates)}"
    ]
