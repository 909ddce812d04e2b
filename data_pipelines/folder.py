"""Pictures and labels from files."""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.audit import Inspection, count_pixels
from data_pipelines.config import DataConfig
from data_pipelines.decode import decode_image, image_head, label_ids
from data_pipelines.errors import DataError
from data_pipelines.image_audit import image_warnings, size_problem
from data_pipelines.label_map import UNKNOWN, LabelMap
from data_pipelines.reading import read_again
from gsto_jax.image_files import Decoded

_SHOWN = 3


class FolderSource:
    """Random access to the pictures of one split under a root directory.

    Pairs come from the split's list file (`image label` a line, relative to the root) or, without
    one, from walking the image folder and swapping the suffix of every path. Images and labels
    are read by the config's `image_rule`.

    Args:
        config: where the files are and what their ids mean.
        split: takes the place of {split} in the config's templates.

    Raises:
        DataError: root, list, folder or a file is missing, a list line is no pair, or the split
            is empty. No picture is opened to find out.

    Example:
        >>> source = FolderSource(config, "val")
        >>> source[0]["image"].shape
        (360, 480, 3)
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        root = Path(config.root).expanduser()
        if not root.is_dir():
            raise DataError(f"There is no directory {root}; set root to where the data set lies.")
        if config.list_file:
            self._entries = _listed(root, config.list_file.format(split=split))
        else:
            self._entries = _walked(root, config, split)
        if limit := config.limit(split):
            self._entries = self._entries[:limit]
        _check_files(self._entries, split)
        self._label_map = LabelMap(config)
        self._rule = config.image_rule

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        """Returns a picture's path without its ending: a name to save results under."""
        return self._entries[index][0]

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of a picture, from the head of its file. Raises DataError."""
        path = self._entries[index][1]
        return image_head(path, str(path)).size_by(self._rule)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a picture.

        Returns:
            image: `h w 3` uint8 RGB; label: `h w` uint8 train ids; index: int.

        Raises:
            DataError: a file cannot be decoded, the sizes differ, or a label has unknown ids.
            IndexError: there is no such picture.
        """
        decoded, ids, _, problems = self._read(index)
        if problems:
            raise DataError(f"{problems[0]}.")
        return {"image": decoded.pixels, "label": ids.astype(np.uint8), "index": int(index)}

    def inspect(self, index: int) -> Inspection:
        """Reads a picture and tells what its label holds, whatever is wrong with it."""
        try:
            decoded, ids, unknown, problems = self._read(index)
        except DataError as error:
            return Inspection(self.name(index), {}, {}, (str(error),))
        pixels = count_pixels(ids[ids != UNKNOWN])
        warnings = image_warnings(str(self._entries[index][1]), decoded, self._rule)
        return Inspection(self.name(index), pixels, unknown, tuple(problems), warnings)

    def _read(self, index: int) -> tuple[Decoded, np.ndarray, dict[int, int], list[str]]:
        """Image, train ids, pixels by id in the file for ids that have none, and the problems."""
        _, image_path, label_path = self._entries[index]
        image, label = str(image_path), str(label_path)
        decoded = decode_image(_read_bytes(image_path), image, self._rule)
        raw = label_ids(_read_bytes(label_path), label, self._rule)
        height, width = raw.shape
        sizes = size_problem(image, decoded, self._rule, label, (height, width))
        problems = [sizes] if sizes else []
        ids, unknown = self._label_map(raw)
        if unknown:
            problems.append(self._label_map.complaint(label_path, unknown))
        return decoded, ids, unknown, problems


Entry = tuple[str, Path, Path]


def _listed(root: Path, list_name: str) -> list[Entry]:
    path = root / list_name
    if not path.is_file():
        raise DataError(f"There is no list file {path}; check root, list_file and the split.")
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(
                f"{path}, line {number}: {line.strip()!r} is not `image label`, two paths relative"
                f" to {root} with a space between."
            )
        image, label = fields
        for name in fields:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise DataError(
                    f"{path}, line {number}: {name} lies outside the data set; give paths relative"
                    f" to {root}, without '..'."
                )
        entries.append((Path(image).with_suffix("").as_posix(), root / image, root / label))
    if not entries:
        raise DataError(f"{path} is empty; list one `image label` pair a line.")
    return entries


def _walked(root: Path, config: DataConfig, split: str) -> list[Entry]:
    images = root / config.images.format(split=split)
    labels = root / config.labels.format(split=split)
    for field, folder in (("images", images), ("labels", labels)):
        if not folder.is_dir():
            raise DataError(f"There is no directory {folder}; check root, {field} and the split.")
    files = sorted(path.relative_to(images).as_posix() for path in images.rglob("*"))
    stems = [
        name.removesuffix(config.image_suffix)
        for name in files
        if name.endswith(config.image_suffix)
    ]
    if not stems:
        seen = f" (it holds {', '.join(files[:_SHOWN])} ...)" if files else ""
        raise DataError(
            f"{images} has no file that ends in {config.image_suffix!r}{seen};"
            " check images, image_suffix and the split."
        )
    return [
        (stem, images / (stem + config.image_suffix), labels / (stem + config.label_suffix))
        for stem in stems
    ]


def _check_files(entries: list[Entry], split: str) -> None:
    missing = [path for _, *pair in entries for path in pair if not path.is_file()]
    if missing:
        shown = ", ".join(str(path) for path in missing[:_SHOWN])
        raise DataError(
            f"{len(missing)} of the {2 * len(entries)} files of split {split!r} are missing:"
            f" {shown}{' ...' if len(missing) > _SHOWN else ''};"
            " restore them, or correct the list or the suffixes."
        )


def _read_bytes(path: Path) -> bytes:
    try:
        return read_again(path.read_bytes, str(path))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None
