"""Finds the image files that annotations name, on another system or in another folder."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few, list_files, strip_suffix


class ImageIndex:
    """The image files below a folder, by the end of their path.

    A path in annotations names a file if one of the two paths, relative to the folder, is the end
    of the other: `../images/train/a.jpg`, `C:/data/a.jpg` and `a.jpg` all name `a.jpg`. An equal
    path is preferred, then one of equal case. Files outside the folder are never named.

    Args:
      folder: folder of the images.
      suffix: suffix of the images; "": any image format.
      skip: folders below it to leave out.

    Attributes:
      names: paths of the images relative to the folder, sorted.

    Raises:
      DataError: there is no such folder, or it cannot be read.
    """

    def __init__(self, folder: Path, suffix: str = "", skip: Collection[Path] = ()) -> None:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}. Check root, images and the split.")
        self.folder = folder
        self.names = [x for x in list_files(folder, skip) if strip_suffix(x, suffix) is not None]
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_name[_last(_fold(name))].append(name)
            self._by_stem[_fold(os.path.splitext(name)[0])].append(name)

    def find(self, path: str, stem: str = "") -> str | None:
        """Returns the image of a path, or else of a path without suffix; None if there is none.

        Raises:
          DataError: several images match equally well.
        """
        candidates = self._by_name.get(_last(_fold(path)), []) if path else []
        for spell in (_compose, _fold):
            spelled = spell(path)
            equal = [name for name in candidates if spell(name) == spelled]
            ends = [name for name in candidates if _is_end(spell(name), spelled)]
            if matches := equal or ends:
                return self._only(matches, path)
        matches = self._by_stem.get(_fold(stem), []) if stem else []
        return self._only(matches, stem) if matches else None

    def _only(self, matches: list[str], path: str) -> str:
        if len(matches) > 1:
            raise DataError(
                f"{path} names several images in {self.folder}: {first_few(matches)}. Use paths"
                " relative to that folder."
            )
        return matches[0]


def _is_end(one: str, other: str) -> bool:
    """Returns whether one path is the end of the other."""
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")


def _compose(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _fold(path: str) -> str:
    return _compose(path).casefold()


def _last(path: str) -> str:
    return path.rpartition("/")[2]
