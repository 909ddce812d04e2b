"""Finds the images and videos to predict."""

import fnmatch
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gsto_jax.errors import UserError
from gsto_jax.files import IMAGE_SUFFIXES, TEXT_SUFFIXES, is_hidden, to_unicode
from gsto_jax.predict.media import VIDEO_SUFFIXES
from gsto_jax.predict.outputs import OUTPUTS
from gsto_jax.storage import has_scheme, is_folder, to_path, walk_objects


@dataclass(frozen=True)
class Input:
    """A file to predict.

    Attributes:
      path: path of the file, as the user wrote it.
      name: name of the outputs, without suffix; may contain slashes.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the suffix is a video suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(
    arguments: Sequence[str],
    output: Path,
    on_skipped: Callable[[Path], None] = lambda path: None,
) -> list[Input]:
    """Returns the input files in the order of the arguments, without duplicates.

    Args:
      arguments: files, folders and glob patterns such as "photos/**/*.jpg". Folders are searched
        for images and videos recursively, through symlinks, without hidden files.
      output: folder of the predictions; earlier predictions in it are not inputs.
      on_skipped: called with each file in a folder that is neither image, video nor text.

    Returns:
      Inputs with unique names.

    Raises:
      UserError: no arguments, or an argument without files.
    """
    if not arguments:
        raise UserError("no input: pass files, folders or patterns after the flags")
    files: dict[str, tuple[Path, str]] = {}  # by real path
    for argument in arguments:
        matches = [x for x in _find(argument, on_skipped) if not _is_prediction(x[0], output)]
        if not matches:
            raise UserError(f"{argument!r} matches no image or video")
        for path, name in matches:
            files.setdefault(os.path.realpath(path), (path, name))
    inputs: dict[str, Input] = {}
    for path, name in files.values():
        name, suffix = to_unicode(name), to_unicode(path.suffix.lstrip("."))
        unique, count = name, 1
        while unique.casefold() in inputs:
            count += 1
            unique = f"{name}_{suffix}{count if count > 2 else ''}"
        inputs[unique.casefold()] = Input(path, unique)
    return [*inputs.values()]


def _find(argument: str, on_skipped: Callable[[Path], None]) -> Iterator[tuple[Path, str]]:
    """Yields path and name of the files that an argument names."""
    if not argument:
        raise UserError("an input must not be empty")
    if has_scheme(argument):
        yield from _find_objects(to_path(argument, "an input"), on_skipped)
        return
    root = Path(argument).expanduser()
    if root.is_file():
        yield root, root.stem
    elif root.is_dir():
        for path in _expand(root, ("**",)):
            if _is_image_or_video(path):
                yield path, path.relative_to(root).with_suffix("").as_posix()
            elif path.suffix.lower() not in TEXT_SUFFIXES:
                on_skipped(path)
    elif glob.has_magic(argument):
        parts = root.parts
        plain = next(n for n, part in enumerate(parts) if glob.has_magic(part))
        files = [
            path
            for path in _expand(Path(*parts[:plain]), parts[plain:])
            if _is_image_or_video(path) and path.is_file()
        ]
        base = Path(os.path.commonpath([path.parent for path in files])) if files else root
        for path in files:
            yield path, path.relative_to(base).with_suffix("").as_posix()
    else:
        raise UserError(f"no such file or folder: {argument}")


def _find_objects(root: Path, on_skipped: Callable[[Path], None]) -> Iterator[tuple[Path, str]]:
    """Yields path and name of an object, or of the images and videos in a folder of a bucket."""
    if glob.has_magic(str(root)):
        raise UserError(f"an input in a bucket must be a file or a folder; got {str(root)!r}")
    if not is_folder(root):
        if not root.exists():
            raise UserError(f"no such file or folder: {root}")
        yield root, root.stem
        return
    for name in walk_objects(root):
        if _is_image_or_video(root / name):
            yield root / name, PurePosixPath(name).with_suffix("").as_posix()
        elif (root / name).suffix.lower() not in TEXT_SUFFIXES:
            on_skipped(root / name)


def _expand(folder: Path, pattern: Sequence[str]) -> list[Path]:
    """Returns the sorted files that match a glob pattern; `**` at its end matches all files.

    Each `**` searches a folder once by its real path, so that looping symlinks end. The result has
    no hidden files.

    Raises:
      UserError: a folder cannot be read.
    """
    searched: set[tuple[str, int]] = set()

    def expand(folder: Path, pattern: Sequence[str]) -> Iterator[Path]:
        head, rest = pattern[0], pattern[1:]
        if head == "**":
            key = os.path.realpath(folder), len(pattern)
            if key in searched:
                return
            searched.add(key)
            yield from expand(folder, rest or ("*",))
            for path in list_folder(folder, "*"):
                if path.is_dir():
                    yield from expand(path, pattern)
            return
        for path in list_folder(folder, head) if glob.has_magic(head) else [folder / head]:
            if not rest and not path.is_dir():
                yield path
            elif rest and path.is_dir():
                yield from expand(path, rest)

    def list_folder(folder: Path, name: str) -> list[Path]:
        names = (x for x in fnmatch.filter(os.listdir(folder), name) if not is_hidden(x))
        return sorted(folder.joinpath(name) for name in names)

    try:
        return sorted(expand(folder, pattern)) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def _is_image_or_video(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _is_prediction(path: Path, output: Path) -> bool:
    folders = {os.path.realpath(output / name) for name in OUTPUTS}
    return any(str(parent) in folders for parent in Path(os.path.realpath(path)).parents)
