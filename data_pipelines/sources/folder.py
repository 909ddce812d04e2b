"""Images and labels as files in folders."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.disk import FileLookup, first_few, unique_names
from data_pipelines.files.images import decode_image, read_image_header
from data_pipelines.files.retry import read_bytes
from data_pipelines.sources.color_map import make_label_map
from data_pipelines.sources.drawn_labels import check_drawn
from data_pipelines.sources.folder_pairs import Pairs, pair_folders
from data_pipelines.sources.fraction import check_no_own_files, split_members
from data_pipelines.sources.image_checks import check_label_size, image_warnings
from data_pipelines.sources.image_list import read_pairs
from data_pipelines.sources.label_inspection import inspect_label
from data_pipelines.sources.stats import Issue, LabelStats, unreadable
from gsto_jax.image_files import Decoded
from gsto_jax.storage import is_folder, is_remote, join_path, to_path


class FolderSource:
    """Random access to the images and labels of a split below a root folder.

    Pairs come from the split's list file (see `data_pipelines.sources.image_list`) or, without one,
    from the image and label folders (see `data_pipelines.sources.folder_pairs`). Hidden files are
    left out.

    Args:
      config: location, decode options and label ids of the files.
      split: replaces {split} in the paths of the config.

    Attributes:
      warnings: messages about files left out and other suspicions.

    Raises:
      DataError: root, list, folder or a file is missing, an image has no label, a line of the list
        is no pair, or the split is empty. No image is opened to find out.

    Example:
      >>> source = FolderSource(config, "val")
      >>> source[0]["image"].shape
      (360, 480, 3)
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        root = to_path(config.root, "config.data.root")
        if not is_folder(root):
            raise DataError(f"There is no folder {root}. Set root to the folder of the dataset.")
        pairs = _read_pairs(root, config, split)
        self.warnings = pairs.warnings
        names = unique_names(pairs.stems, [path.suffix for path in pairs.images])
        members = split_members(pairs.stems, config, split)[: config.limit(split) or None]
        self._names = [names[index] for index in members]
        self._images = [pairs.images[index] for index in members]
        self._labels = [pairs.labels[index] for index in members]
        if config.list_file or not is_remote(root):  # a bucket's folders list files that exist
            self._check_files(split)
        self._label_map = make_label_map(config)
        self._options = config.decode_options

    def _check_files(self, split: str) -> None:
        pairs, lookup = zip(self._images, self._labels, strict=True), FileLookup()
        missing = [path for pair in pairs for path in pair if not lookup.is_file(path)]
        if missing:
            raise DataError(
                f"{len(missing)} of the {2 * len(self)} files of split {split!r} are missing:"
                f" {first_few(missing)}. Restore them, or correct the list or the suffixes."
            )

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Returns an image's path without suffix, made unique by `unique_names`."""
        return self._names[index]

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of an image from the header of its file. Raises DataError."""
        path = self._images[index]
        return read_image_header(path, str(path)).oriented_size(self._options)

    def stored_bytes(self, index: int) -> int:
        """Reads the files of an image and its label; returns their size in bytes."""
        return sum(len(read_bytes(paths[index])) for paths in (self._images, self._labels))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads an image and its label.

        Returns:
          image: `h w c` uint8; label: `h w` uint8 train ids; index: int.

        Raises:
          DataError: a file cannot be decoded, the sizes differ, or a label has unknown ids or
            colors.
          IndexError: no such image.
        """
        decoded, values, _, size_issue = self._read(index)
        if size_issue is not None:
            raise DataError(f"{size_issue}.")
        label = self._label_map.train_ids(values, str(self._labels[index]))
        return {"image": decoded.pixels, "label": label, "index": int(index)}

    def inspect(self, index: int) -> LabelStats:
        """Returns the label statistics and issues of an image, even if it cannot be decoded."""
        name = self.name(index)
        try:
            decoded, values, data, size_issue = self._read(index)
        except DataError as error:
            return LabelStats.from_record(name, problems=[unreadable(name, error)])
        stats = inspect_label(name, str(self._labels[index]), values, self._label_map, data)
        if size_issue is not None:
            stats.problems.insert(0, size_issue)
        stats.warnings[:0] = image_warnings(str(self._images[index]), decoded, self._options)
        return stats

    def _read(self, index: int) -> tuple[Decoded, np.ndarray, bytes, Issue | None]:
        """Returns the image, the label as stored, the label's file, and an issue of the sizes."""
        image, label = str(self._images[index]), str(self._labels[index])
        decoded = decode_image(read_bytes(self._images[index]), image, self._options)
        data = read_bytes(self._labels[index])
        values = self._label_map.decode(data, label, self._options)
        return decoded, values, data, check_label_size(image, decoded, self._options, label, values)


def _read_pairs(root: Path, config: DataConfig, split: str) -> Pairs:
    """Returns the pairs of `config.stored_split(split)`.

    Raises:
      DataError: there are none, or `val_fraction` is set and the split has its own files too.
    """
    stored_split = config.stored_split(split)
    check_no_own_files(root, config, split)
    if config.list_file:
        list_file = config.list_file.format(split=stored_split)
        return _listed_pairs(root, join_path(root, list_file, "config.data.list_file"))
    return _folder_pairs(root, config, stored_split)


def _listed_pairs(root: Path, path: Path) -> Pairs:
    if not path.is_file():
        raise DataError(f"There is no list file {path}. Check root, list_file and the split.")
    pairs = read_pairs(read_bytes(path), path, root)
    if not pairs:
        raise DataError(f"{path} is empty. List one `image label` pair per line.")
    names, images, labels = zip(*pairs, strict=True)
    return Pairs(
        stems=tuple(os.path.splitext(name.replace("\\", "/"))[0] for name in names),
        images=images,
        labels=labels,
        warnings=_duplicates_warning(path, images, labels),
    )


def _duplicates_warning(
    path: Path, images: tuple[Path, ...], labels: tuple[Path, ...]
) -> tuple[str, ...]:
    """Returns a warning about images that a list names several times."""
    counts = Counter(images)
    num_labels = Counter(image for image, _ in set(zip(images, labels, strict=True)))
    duplicates = [image for image, count in counts.items() if count > 1]
    if not duplicates:
        return ()
    conflicts = sum(num_labels[image] > 1 for image in duplicates)
    differ = f", {conflicts} of them with different labels" if conflicts else ""
    noun = "image" if len(duplicates) == 1 else "images"
    return (
        f"{path} names {len(duplicates)} {noun} more than once{differ}: {first_few(duplicates)}",
    )


def _folder_pairs(root: Path, config: DataConfig, split: str) -> Pairs:
    images = join_path(root, config.images.format(split=split), "config.data.images")
    labels = join_path(root, config.labels.format(split=split), "config.data.labels")
    if config.annotations:
        check_drawn(labels, config)
    for field, folder in (("images", images), ("labels", labels)):
        if not is_folder(folder):
            raise DataError(f"There is no folder {folder}. Check root, {field} and the split.")
    return pair_folders(
        images,
        labels,
        config.image_suffix,
        config.label_suffix,
        limit=0 if config.val_fraction else config.limit(split),
        labeled_only=bool(config.annotations),
    )
