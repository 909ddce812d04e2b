"""Finds the images of a folder, their labels and their splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.annotations import AnnotatedImage
from data_pipelines.errors import DataError
from data_pipelines.inspection.file_names import (
    PLACEHOLDER,
    order_splits,
    parse_names,
)
from data_pipelines.inspection.lists import PathPairs, find_name_lists, find_pair_lists
from data_pipelines.inspection.pairing import FileKind, Match, match_files
from data_pipelines.sources.folder_pairs import pair_folders
from gsto_jax.image_files import ImageError, open_image

_PROBED_SIDE = 512
"""Side of the center of an image that is read to tell labels from photos."""


@dataclass
class Layout:
    """The location of a dataset's images and labels.

    Attributes:
      root: folder of the dataset.
      description: the layout in words.
      options: config options of the section `data` that say the same.
      pairs: image and label of each split; the split is "" if there is one only.
      needs_lists: whether list files of the pairs must be written, since no options describe them.
      annotated: annotated images by file, of COCO and labelme JSON.
      categories: their categories.
      doubts: decisions that may be wrong.
    """

    root: Path
    description: str
    options: dict[str, Any]
    pairs: dict[str, PathPairs]
    needs_lists: bool = False
    annotated: dict[Path, AnnotatedImage] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    doubts: list[str] = field(default_factory=list)

    @property
    def train_split(self) -> str:
        """The split to train on: the training split, or else the largest."""
        train = [split for split in self.pairs if split.lower().startswith("tr")]
        return train[0] if train else max(self.pairs, key=lambda split: len(self.pairs[split]))

    @property
    def eval_split(self) -> str:
        """The split to evaluate on; "" if there is none of its own."""
        others = [split for split in self.pairs if split != self.train_split]
        return order_splits(others)[0] if others else ""


def find_label_files(root: Path, images: Sequence[str], paths: Sequence[str]) -> Layout | None:
    """Finds the images below a folder that have label images; None if there are none.

    Names are compared, and a few files of each kind opened.

    Args:
      root: the folder.
      images: its image files, as relative paths.
      paths: all its files.
    """
    template, splits = find_pair_lists(root, paths)
    if splits:
        description = f"lists of images and labels: {template}"
        return Layout(root, description, {"list_file": template}, splits)
    match = match_files(parse_names(images), lambda path: flatness(root / path))
    if match is None:
        return None
    layout = _layout_of_match(root, match)
    if len(layout.pairs) < 2:
        template, splits = find_name_lists(root, paths, layout.pairs[layout.train_split])
        if template:
            description = f"{layout.description}, split by {template}"
            doubts = layout.doubts
            return Layout(root, description, {}, splits, needs_lists=True, doubts=doubts)
    return layout


def _layout_of_match(root: Path, match: Match) -> Layout:
    """Describes matched files by config options, or by lists if none do."""
    splits: dict[str, PathPairs] = {
        split: [] for split in order_splits({image.split for image, _ in match.pairs})
    }
    for image, label in match.pairs:
        splits[image.split].append((root / image.path, root / label.path))
    options = _folder_options(match) if match.folders else {}
    layout = Layout(root, _describe(options, match), options, splits, doubts=list(match.doubts))
    if match.unpaired:
        layout.doubts.append(f"{match.unpaired} images have no label, and are left out")
    if not options or not _are_paired_by(options, root, splits):
        layout.options, layout.needs_lists = {}, True
    return layout


def _folder_options(match: Match) -> dict[str, Any]:
    image_suffix, label_suffix = (
        _suffix(kind, [pair[side].suffix for pair in match.pairs])
        for side, kind in enumerate((match.images, match.labels))
    )
    if match.folders[0] == match.folders[1]:
        image_suffix = image_suffix or match.pairs[0][0].suffix
        label_suffix = label_suffix or match.pairs[0][1].suffix
    options = {
        "images": "/".join(match.folders[0]) or ".",
        "labels": "/".join(match.folders[1]) or ".",
        "image_suffix": image_suffix,
        "label_suffix": label_suffix,
    }
    return {name: value for name, value in options.items() if value}


def _suffix(kind: FileKind, suffixes: Sequence[str]) -> str:
    """Returns the option that selects files of a kind; "" for any image file."""
    if kind.marks.ending:
        return kind.marks.ending + Counter(suffixes).most_common(1)[0][0]
    return kind.suffix


def _are_paired_by(options: Mapping[str, Any], root: Path, splits: Mapping[str, PathPairs]) -> bool:
    """Returns whether the options pair the same files."""
    folders = [options["images"], options["labels"]]
    if any("{" in folder.replace(PLACEHOLDER, "") for folder in folders):
        return False
    suffixes = [options.get(f"{kind}_suffix", "") for kind in ("image", "label")]
    for split, expected in splits.items():
        images, labels = (root / folder.replace(PLACEHOLDER, split) for folder in folders)
        try:
            pairs = pair_folders(images, labels, *suffixes)
        except DataError:
            return False
        if set(zip(pairs.images, pairs.labels, strict=True)) != set(expected):
            return False
    return True


def _describe(options: Mapping[str, str], match: Match) -> str:
    if not options:
        image, label = match.pairs[0]
        return f"images such as {image.path}, labels such as {label.path}"
    suffixes = [f"*{options.get(f'{kind}_suffix', '')}" for kind in ("image", "label")]
    images, labels = options["images"], options["labels"]
    if images == labels:
        folder = "the folder itself" if images == "." else images
        return f"one folder ({folder}) of images {suffixes[0]} and labels {suffixes[1]}"
    return f"images in {images}/{suffixes[0]}, labels in {labels}/{suffixes[1]}"


def flatness(path: Path) -> float:
    """Returns the fraction of pixels in the center of an image that equal their right neighbor."""
    try:
        with path.open("rb") as file, open_image(file) as image:
            left, top = (max(0, (side - _PROBED_SIDE) // 2) for side in image.size)
            box = (left, top, left + _PROBED_SIDE, top + _PROBED_SIDE)
            width, height = image.size
            values = np.asarray(image.crop((*box[:2], min(box[2], width), min(box[3], height))))
    except (OSError, ImageError):
        return 0.0
    equal = values[:, 1:] == values[:, :-1]
    return float((equal.all(-1) if equal.ndim == 3 else equal).mean()) if equal.size else 0.0
