"""Pictures and labels from files."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.audit import Inspection, count_pixels
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.label_png import read_label
from data_pipelines.labels import IGNORE_LABEL

# A file that cannot be decoded is reported by its name here, not by OpenCV as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_UNKNOWN = -1
_SHOWN = 3


class FolderSource:
    """Random access to the pictures of one split under a root directory.

    Pairs come from the split's list file (`image label` a line, relative to the root) or, without
    one, from walking the image folder and swapping the suffix of every path. Pixels are taken as
    stored: an EXIF orientation is not applied, since no label file carries one.

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
        root = Path(config.root)
        if not root.is_dir():
            raise DataError(f"There is no directory {root}; set root to where the data set lies.")
        if config.list_file:
            self._entries = _listed(root, config.list_file.format(split=split))
        else:
            self._entries = _walked(root, config, split)
        size = {config.train_split: config.train_size, config.eval_split: config.eval_size}
        if limit := size.get(split, 0):
            self._entries = self._entries[:limit]
        _check_files(self._entries, split)
        self._lookup = _lookup_table(config)
        self._remedy = (
            f"add them to id_map (train ids 0..{len(config.classes) - 1},"
            f" or {config.ignore_label} to ignore them)"
        )

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        """Returns a picture's path without its ending: a name to save results under."""
        return self._entries[index][0]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a picture.

        Returns:
            image: `h w 3` uint8 RGB; label: `h w` uint8 train ids; index: int.

        Raises:
            DataError: a file cannot be decoded, the sizes differ, or a label has unknown ids.
            IndexError: there is no such picture.
        """
        image, ids, _, problems = self._read(index)
        if problems:
            raise DataError(f"{problems[0]}.")
        return {"image": image, "label": ids.astype(np.uint8), "index": int(index)}

    def inspect(self, index: int) -> Inspection:
        """Reads a picture and tells what its label holds, whatever is wrong with it."""
        try:
            _, ids, unknown, problems = self._read(index)
        except DataError as error:
            return Inspection(self.name(index), {}, {}, (str(error),))
        pixels = count_pixels(ids[ids != _UNKNOWN])
        return Inspection(self.name(index), pixels, unknown, tuple(problems))

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray, dict[int, int], list[str]]:
        """Image, train ids, pixels by id in the file for ids that have none, and the problems."""
        _, image_path, label_path = self._entries[index]
        image = _read_image(image_path)
        raw = _read_label(label_path)
        problems = []
        if image.shape[:2] != raw.shape:
            problems.append(
                f"Sizes differ: {image_path} is {_size(image)} but {label_path} is {_size(raw)};"
                " a label needs its image's size"
            )
        ids = self._lookup[raw]
        missing = ids == _UNKNOWN
        unknown = count_pixels(raw[missing]) if missing.any() else {}
        if unknown:
            problems.append(f"{label_path} has {_unknown_text(unknown)}; {self._remedy}")
        return image, ids, unknown, problems


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


def _lookup_table(config: DataConfig) -> np.ndarray:
    """Returns the train id of every 16-bit id, `_UNKNOWN` where there is none."""
    table = np.full(2**16, _UNKNOWN, np.int16)
    pairs = config.id_map or (
        *((i, i) for i in range(len(config.classes))),
        (config.ignore_label, config.ignore_label),
    )
    for raw, train in pairs:
        if raw >= 0:
            table[raw] = config.ignore_label if train == IGNORE_LABEL else train
    return table


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None


def _read_image(path: Path) -> np.ndarray:
    data = _read_bytes(path)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise DataError(f"Cannot decode {path}: it is truncated or no image; replace the file.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_label(path: Path) -> np.ndarray:
    try:
        raw = read_label(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"Cannot decode {path}: it is truncated or no image ({error}); replace the file."
        ) from error
    if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16):
        channels = 1 if raw.ndim == 2 else raw.shape[2]
        raise DataError(
            f"{path} holds {channels} channels of {raw.dtype}; a label is one channel of 8 or 16"
            " bit ids: convert its colours to ids first."
        )
    return raw


def _unknown_text(unknown: dict[int, int]) -> str:
    shown = ", ".join(f"{value} ({count} px)" for value, count in list(unknown.items())[:8])
    more = f" and {len(unknown) - 8} more values" if len(unknown) > 8 else ""
    return f"unknown label ids: {shown}{more}"


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
