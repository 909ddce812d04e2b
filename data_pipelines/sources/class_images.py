"""Images with a class each: in a folder for each class, or in prepared records."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few, list_files, strip_suffix, unique_names
from data_pipelines.files.encoded import EncodedImage
from data_pipelines.files.images import decode_image
from data_pipelines.files.retry import read_bytes
from data_pipelines.image_class_options import class_folders
from data_pipelines.sources.fraction import own_files_error, split_members
from data_pipelines.sources.image_checks import image_warnings
from data_pipelines.sources.prepared import PREPARE_AGAIN, open_prepared
from data_pipelines.sources.stats import LabelStats, unreadable
from gsto_jax.storage import is_folder, join_path, to_path


class ClassImages(ABC):
    """Random access to the images of a split and their classes.

    Args:
      config: the dataset.
      names: name of each stored image.
      split: name of the split.

    Attributes:
      warnings: messages about what is left out.
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, config: DataConfig, names: Sequence[str], split: str) -> None:
        self._config, self._names = config, names
        self._members = split_members(names, config, split)[: config.limit(split) or None]

    @abstractmethod
    def read(self, position: int) -> tuple[bytes, int, str]:
        """Reads a stored image: file, class, and name for messages. Raises DataError."""

    def __len__(self) -> int:
        return len(self._members)

    def name(self, index: int) -> str:
        """Returns the name under which results of an image are saved."""
        return self._names[self._members[index]]

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of the crop, which all images are resized to."""
        return self._config.crop

    def stored_bytes(self, index: int) -> int:
        """Reads the file of an image; returns its size in bytes."""
        return len(self.read(self._members[index])[0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads an image, without decoding it.

        Returns:
          image: `EncodedImage`; label: int; index: int.

        Raises:
          DataError: the file cannot be read.
          IndexError: no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        data, label, name = self.read(self._members[index])
        image = EncodedImage(data, name, self._config.decode_options)
        return {"image": image, "label": label, "index": int(index)}

    def inspect(self, index: int) -> LabelStats:
        """Returns the class of an image as the label of one pixel, and issues of its file."""
        name, options = self.name(index), self._config.decode_options
        try:
            data, label, file = self.read(self._members[index])
            decoded = decode_image(data, file, options)
        except DataError as error:
            return LabelStats.from_record(name, problems=[unreadable(name, error)])
        warnings = image_warnings(file, decoded, options)
        return LabelStats.from_record(name, {label: 1}, warnings=warnings)


class ClassFolderSource(ClassImages):
    """The images of `data.images`, by default ROOT/SPLIT, in a folder for each class.

    The folder of a class has its name or the first word of it, see `class_folders`. Images
    alternate between the classes, so that the first ones have all classes.

    Args:
      config: location of the files, and names of the classes.
      split: replaces {split} in `data.images`.

    Raises:
      DataError: a folder is missing, or has no images; no image is opened to find out.
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        root = to_path(config.root, "config.data.root")
        stored_split, pattern = config.stored_split(split), config.images or "{split}"
        self._folder = join_path(root, pattern.format(split=stored_split), "config.data.images")
        own = join_path(root, pattern.format(split=split), "config.data.images")
        if own != self._folder and is_folder(own):
            raise own_files_error(config, split, own)
        if not is_folder(self._folder):
            raise DataError(
                f"There is no folder {self._folder}. Set config.data.root to the folder that has"
                " it, or config.data.images to its path there."
            )
        files = self._find_files(config)
        self._check_classes(config, split, [label for label, _ in files])
        stems, suffixes = zip(*(os.path.splitext(file) for _, file in files), strict=True)
        super().__init__(config, unique_names(stems, suffixes), split)
        self._files = files

    def _find_files(self, config: DataConfig) -> list[tuple[int, str]]:
        """Returns class and relative path of each image, alternating between the classes."""
        labels = class_folders(config.classes)
        by_class: list[list[str]] = [[] for _ in config.classes]
        others: dict[str, str] = {}
        for file in list_files(self._folder):
            if strip_suffix(file, config.image_suffix) is None:
                continue
            folder, slash, _ = file.partition("/")
            if slash and folder in labels:
                by_class[labels[folder]].append(file)
            else:
                others[folder if slash else ""] = file
        if others:
            self.warnings = (
                f"{self._folder} has images in {len(others)} places that are no folder of a class"
                f" of config.data.classes, which are left out: {first_few(others.values())}",
            )
        ranked = (
            (rank, label, file)
            for label, files in enumerate(by_class)
            for rank, file in enumerate(sorted(files))
        )
        return [(label, file) for _, label, file in sorted(ranked)]

    def _check_classes(self, config: DataConfig, split: str, labels: Sequence[int]) -> None:
        present = set(labels)
        absent = [name for k, name in enumerate(config.classes) if k not in present]
        if not absent:
            return
        message = f"{self._folder} has no images of {len(absent)} of {len(config.classes)} classes"
        if split == config.train_split or not present:
            raise DataError(
                f"{message}: {first_few(absent)}. A class needs a folder of images with its name in"
                " config.data.classes, or the first word of it if no other class has that word."
            )
        self.warnings += (f"{message}: {first_few(absent)}",)

    def read(self, position: int) -> tuple[bytes, int, str]:
        """See `ClassImages.read`."""
        label, file = self._files[position]
        path: Path = self._folder / file
        return read_bytes(path), label, str(path)


class ClassRecordSource(ClassImages):
    """Images and classes of a prepared dataset.

    Args:
      config: the dataset.
      split: name of the split.

    Raises:
      DataError: see `open_prepared`.
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        stored_split = config.stored_split(split)
        features = ("image", "label")
        self._records = open_prepared(
            config.root, config.name, stored_split, features, source=config.source
        )
        if split != stored_split and split in self._records.splits:
            raise own_files_error(config, split, f"Split {split!r} of {self._records.folder}")
        names = [self._records.name(position) for position in range(len(self._records))]
        super().__init__(config, names, split)

    def read(self, position: int) -> tuple[bytes, int, str]:
        """See `ClassImages.read`."""
        record, name = self._records[position], self._records.describe(position)
        stored, count = np.asarray(record["label"]), len(self._config.classes)
        if stored.shape or stored.dtype.kind not in "iu":
            raise DataError(
                f"{name} has a label of type {stored.dtype} and shape {stored.shape}, which is no"
                " class: set config.data.name to a dataset with an integer label for each image."
            )
        label = int(stored)
        if not 0 <= label < count:
            raise DataError(
                f"{name} has class {label}, and config.data.classes has {count}. {PREPARE_AGAIN}"
            )
        return record["image"], label, f"the image of {name}"
