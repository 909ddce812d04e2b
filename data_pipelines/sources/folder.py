"""Images and labels from files."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few, unique_names
from data_pipelines.files.images import decode_image, decode_label, read_image_header
from data_pipelines.files.retry import read_with_retries
from data_pipelines.sources.audit import Inspection, Issue, unreadable
from data_pipelines.sources.folder_pairs import Pairs, pair_folders
from data_pipelines.sources.image_audit import image_warnings, size_problem
from data_pipelines.sources.image_list import read_pairs
from data_pipelines.sources.label_inspection import inspect_label
from data_pipelines.sources.label_map import LabelMap
from gsto_jax.image_files import Decoded

Entry = tuple[str, Path, Path]


class FolderSource:
    """Random access to the images of one split under a root directory.

    Pairs come from the split's list file (`image label` a line, relative to the root; see
    `data_pipelines.sources.image_list`) or, without one, from the files below the image folder and
    those of the same path, but for the suffix, below the label folder. Hidden files are left out.
    Images and labels are read by the config's `decode_options`.

    Args:
        config: where the files are and what their ids mean.
        split: takes the place of {split} in the config's templates.

    Raises:
        DataError: root, list, folder or a file is missing, an image has no label, a list line is
            no pair, or the split is empty. No image is opened to find out.

    Attributes:
        warnings: files that are left out, and other suspicions, in words.

    Example:
        >>> source = FolderSource(config, "val")
        >>> source[0]["image"].shape
        (360, 480, 3)
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        root = Path(config.root).expanduser()
        if not root.is_dir():
            raise DataError(f"There is no directory {root}; set root to where the dataset lies.")
        if config.list_file:
            pairs = _listed(root, config.list_file.format(split=split))
        else:
            pairs = _walked(root, config, split)
        self.warnings = pairs.warnings
        names = unique_names(pairs.stems, [path.suffix for path in pairs.images])
        entries = list(zip(names, pairs.images, pairs.labels, strict=True))
        self._entries: list[Entry] = entries[: config.limit(split) or None]
        _check_files(self._entries, split)
        self._label_map = LabelMap(config)
        self._rule = config.decode_options

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        """Returns an image's path without its ending: a name to save results under.

        No two are the same, not even on systems without case; see `unique_names`.
        """
        return self._entries[index][0]

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of an image, from the head of its file. Raises DataError."""
        path = self._entries[index][1]
        return read_image_header(path, str(path)).oriented_size(self._rule)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads an image.

        Returns:
            image: `h w 3` uint8 RGB; label: `h w` uint8 train ids; index: int.

        Raises:
            DataError: a file cannot be decoded, the sizes differ, or a label has unknown ids.
            IndexError: there is no such image.
        """
        decoded, raw, _, mismatch = self._read(index)
        if mismatch is not None:
            raise DataError(f"{mismatch}.")
        self._label_map.check(raw, str(self._entries[index][2]))
        label = self._label_map.known(raw)
        return {"image": decoded.pixels, "label": label, "index": int(index)}

    def inspect(self, index: int) -> Inspection:
        """Reads an image and tells what its label holds, whatever is wrong with it."""
        name = self.name(index)
        try:
            decoded, raw, data, mismatch = self._read(index)
        except DataError as error:
            return Inspection(name, problems=(unreadable(name, error),))
        _, image, label = self._entries[index]
        found = inspect_label(name, str(label), raw, self._label_map, data)
        return replace(
            found,
            problems=found.problems if mismatch is None else (mismatch, *found.problems),
            warnings=(*image_warnings(str(image), decoded, self._rule), *found.warnings),
        )

    def _read(self, index: int) -> tuple[Decoded, np.ndarray, bytes, Issue | None]:
        """Returns the image, the ids in the label file, that file, and whether the sizes differ."""
        _, image_path, label_path = self._entries[index]
        image, label = str(image_path), str(label_path)
        decoded = decode_image(_read_bytes(image_path), image, self._rule)
        data = _read_bytes(label_path)
        raw = decode_label(data, label, self._rule)
        size = (raw.shape[0], raw.shape[1])
        return decoded, raw, data, size_problem(image, decoded, self._rule, label, size)


def _listed(root: Path, list_name: str) -> Pairs:
    path = root / list_name
    if not path.is_file():
        raise DataError(f"There is no list file {path}; check root, list_file and the split.")
    pairs = read_pairs(_read_bytes(path), path, root)
    if not pairs:
        raise DataError(f"{path} is empty; list one `image label` pair a line.")
    return Pairs(
        stems=tuple(os.path.splitext(image.replace("\\", "/"))[0] for image, _, _, _ in pairs),
        images=tuple(image for _, _, image, _ in pairs),
        labels=tuple(label for _, _, _, label in pairs),
        warnings=_listed_again(path, [(image, label) for _, _, image, label in pairs]),
    )


def _listed_again(path: Path, pairs: list[tuple[Path, Path]]) -> tuple[str, ...]:
    """Returns a warning for images that a list names more than once, with one label or others."""
    counts = Counter(image for image, _ in pairs)
    labels = Counter(image for image, _ in set(pairs))
    again = [image for image, count in counts.items() if count > 1]
    if not again:
        return ()
    others = sum(labels[image] > 1 for image in again)
    differ = f", {others} of them with different labels" if others else ""
    noun = "image" if len(again) == 1 else "images"
    return (f"{path} names {len(again)} {noun} more than once{differ}: {first_few(again)}",)


def _walked(root: Path, config: DataConfig, split: str) -> Pairs:
    images = root / config.images.format(split=split)
    labels = root / config.labels.format(split=split)
    for field, folder in (("images", images), ("labels", labels)):
        if not folder.is_dir():
            raise DataError(f"There is no directory {folder}; check root, {field} and the split.")
    suffixes = config.image_suffix, config.label_suffix
    return pair_folders(images, labels, *suffixes, config.limit(split))


def _check_files(entries: list[Entry], split: str) -> None:
    missing = [path for _, *pair in entries for path in pair if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {2 * len(entries)} files of split {split!r} are missing:"
            f" {first_few(missing)}; restore them, or correct the list or the suffixes."
        )


def _read_bytes(path: Path) -> bytes:
    try:
        return read_with_retries(path.read_bytes, str(path))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None
