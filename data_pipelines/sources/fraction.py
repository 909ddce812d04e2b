"""Splits the images of one folder, list or prepared split into training and evaluation images."""

import hashlib
import os
import posixpath
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from gsto_jax.files import to_unicode
from gsto_jax.storage import join_path


def split_members(names: Sequence[str], config: DataConfig, split: str) -> list[int]:
    """Returns the indices of the images that belong to a split, ascending.

    With `val_fraction`, the names of the training files are ranked by a hash of `val_seed` and
    name. The first round(val_fraction * n) of n names, but at least one and at most n - 1, are the
    evaluation images, and the others are the training images. So an added or removed image moves
    at most one other image to the other split. Images of equal names stay together.

    Args:
      names: name of each image of `config.stored_split(split)`.
      config: the dataset.
      split: name of the split.

    Raises:
      DataError: all images have one name, so that they cannot be split.
    """
    if not config.val_fraction or split not in (config.train_split, config.eval_split):
        return list(range(len(names)))
    keys = [_normalize(name) for name in names]
    ranking = sorted(set(keys), key=lambda key: (_hash(config.val_seed, key), key))
    if len(ranking) < 2:
        raise DataError(
            f"config.data.val_fraction={config.val_fraction:g} needs two images at least; there is"
            f" {len(ranking)} in {config.train_split}. Add images, or set it to 0."
        )
    size = min(max(int(config.val_fraction * len(ranking) + 0.5), 1), len(ranking) - 1)
    held_out = set(ranking[:size])
    is_eval = split == config.eval_split
    return [index for index, key in enumerate(keys) if (key in held_out) == is_eval]


def check_no_own_files(root: Path, config: DataConfig, split: str) -> None:
    """Raises DataError if `val_fraction` is set and the evaluation split has its own files."""
    stored_split = config.stored_split(split)
    patterns = (config.images, config.labels, config.annotations)
    for pattern in [config.list_file] if config.list_file else patterns:
        if split == stored_split or "{split}" not in pattern:
            continue
        own = join_path(root, pattern.format(split=split), "config.data.list_file")
        if own.exists():
            raise own_files_error(config, split, own)


def own_files_error(config: DataConfig, split: str, location: object) -> DataError:
    """Builds the error for an evaluation split with files of its own beside `val_fraction`.

    Args:
      config: the dataset.
      split: the split.
      location: folder, list or stored split with its own files.
    """
    return DataError(
        f"{location} exists, but config.data.val_fraction={config.val_fraction:g} makes {split!r} a"
        f" part of {config.train_split!r}. Set val_fraction=0 to use these files, or give the part"
        " another name by config.data.eval_split."
    )


def _normalize(name: str) -> str:
    """Returns a name that does not depend on the system: separators, and composed accents."""
    path = posixpath.normpath(to_unicode(name).replace(os.sep, "/").replace("\\", "/"))
    return unicodedata.normalize("NFC", path)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
