"""Whose pictures are predicted, and what is written of them (needs OpenCV and Pillow)."""

import csv
import glob
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.canvas import write_image
from gsto_jax.errors import UserError
from gsto_jax.figures import branch_figure, gate_figure
from gsto_jax.media import IMAGES, VIDEOS
from gsto_jax.predictor import Prediction

KINDS = ("overlay", "color", "ids", "branches", "gates")
EXPLAINING = {"branches", "gates"}
"""Kinds that show what the network looked at."""


@dataclass(frozen=True)
class Input:
    """A file to predict.

    Attributes:
      path: its place, as it was named.
      name: of what is written, less the suffix; may hold slashes.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it has many frames, by its suffix."""
        return self.path.suffix.lower() in VIDEOS


def find_inputs(arguments: Sequence[str], output: Path) -> list[Input]:
    """Files that arguments name, each once.

    Args:
      arguments: files, folders (all pictures and videos in them and below) and patterns such as
        "photos/**/*.jpg".
      output: folder for what will be written; what earlier predictions left there is not taken.

    Returns:
      In the order of the arguments, sorted within each; no two names are equal.

    Raises:
      UserError: an argument names nothing; or there is none.
    """
    if not arguments:
        raise UserError("no picture is named: give files, folders or patterns behind the flags")
    found: dict[Path, tuple[Path, str]] = {}
    for argument in arguments:
        inside = [(path, name) for path, name in _named(argument) if not _is_ours(path, output)]
        if not inside:
            raise UserError(f"{argument!r} names no picture or video")
        for path, name in inside:
            found.setdefault(path.resolve(), (path, name))
    taken: set[str] = set()
    inputs = []
    for path, name in found.values():
        unique, number = name, 1
        while unique.casefold() in taken:
            number += 1
            suffix = path.suffix.lstrip(".")
            unique = f"{name}_{suffix}" if number == 2 else f"{name}_{suffix}{number}"
        taken.add(unique.casefold())
        inputs.append(Input(path, unique))
    return inputs


def _named(argument: str) -> Iterator[tuple[Path, str]]:
    place = Path(argument).expanduser()
    if not argument:
        raise UserError("one of the pictures has an empty name")
    if place.is_file():
        yield place, place.stem
    elif place.is_dir():
        for path in sorted(place.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
            if path.is_file() and not hidden and _is_known(path):
                yield path, path.relative_to(place).with_suffix("").as_posix()
    elif glob.has_magic(argument):
        matches = sorted(map(Path, glob.glob(str(place), recursive=True)))
        files = [path for path in matches if path.is_file() and _is_known(path)]
        base = Path(os.path.commonpath([path.parent for path in files])) if files else place
        for path in files:
            yield path, path.relative_to(base).with_suffix("").as_posix()
    else:
        raise UserError(f"there is no file or folder {argument}")


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGES, *VIDEOS)


def _is_ours(path: Path, output: Path) -> bool:
    parents = path.resolve().parents
    return any((output / kind).resolve() in parents for kind in KINDS)


class PredictionWriter:
    """Writes predictions into a folder for each kind.

    `overlay/NAME.jpg`, `color/NAME.png`, `ids/NAME.png` (one channel of class indices, listed in
    `classes.csv`), `branches/NAME.png`, `gates/NAME.png`. Of a video NAME.mp4 each, and the ids of
    a frame as `ids/NAME.mp4/000000.png`. Each is written under another name and then renamed.

    Args:
      folder: where to.
      kinds: some of `KINDS`.
      classes: names.
      palette: their colours.

    Raises:
      UserError: an unknown kind, or a folder that cannot be written, or holds predictions of other
        classes.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise UserError(f"--save={','.join(kinds)}: use some of {', '.join(KINDS)}")
        self.folder, self.kinds = folder, tuple(dict.fromkeys(kinds))
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["id", "class", "red", "green", "blue"])
        for k, (name, color) in enumerate(zip(classes, palette, strict=True)):
            rows.writerow([k, name, *color])
        path, part = folder / "classes.csv", folder / ".classes.csv.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.read_text() != table.getvalue():
                raise UserError(
                    f"{folder} holds predictions of other classes: give another --output"
                )
            part.write_text(table.getvalue())
            part.replace(path)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}): give a writable --output"
            ) from None

    def write(self, name: str, prediction: Prediction) -> None:
        """Writes a picture. Raises OSError if that fails."""
        for kind in self.kinds:
            suffix = ".jpg" if kind == "overlay" else ".png"
            _write_image(self.folder / kind / f"{name}{suffix}", _drawn(kind, prediction))

    def write_video(self, name: str, rate: float, frames: Iterator[Prediction]) -> None:
        """Writes a video, frame by frame.

        Args:
          name: of the files.
          rate: frames a second.
          frames: of one size each. Should they raise, nothing is kept.

        Raises:
          OSError: a file cannot be written.
        """
        films = {
            kind: (_Frames if kind == "ids" else _Film)(self.folder / kind / f"{name}.mp4", rate)
            for kind in self.kinds
        }
        try:
            for prediction in frames:
                for kind, film in films.items():
                    film.write(_drawn(kind, prediction))
            for film in films.values():
                film.finish()
        finally:
            for film in films.values():
                film.discard()


def _drawn(kind: str, prediction: Prediction) -> np.ndarray:
    draw: dict[str, Callable[[], np.ndarray]] = {
        "overlay": prediction.overlay,
        "color": prediction.colors,
        "ids": lambda: prediction.labels,
        "branches": lambda: branch_figure(prediction.image, prediction.maps),
        "gates": lambda: gate_figure(prediction.image, prediction.maps),
    }
    return draw[kind]()


def _part_of(path: Path) -> Path:
    """Where a file is written first: a name that is short, and of this thread alone."""
    return path.with_name(f".{threading.get_ident()}.part{path.suffix}")


def _write_image(path: Path, image: np.ndarray) -> None:
    part = _part_of(path)
    try:
        write_image(part, image)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Film:
    """A video, there once it is finished."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.part, self.rate = path, _part_of(path), rate
        self._film: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        # Half the resolution in colour: sides must be even.
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if self._film is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code, size = cv2.VideoWriter.fourcc(*"mp4v"), (frame.shape[1], frame.shape[0])
            self._film = cv2.VideoWriter(str(self.part), cv2.CAP_FFMPEG, code, self.rate, size)
            if not self._film.isOpened():
                raise OSError(f"cannot write {self.path}, {size[0]}x{size[1]}")
        self._film.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def finish(self) -> None:
        if self._film is not None:
            self._film.release()
            self.part.replace(self.path)

    def discard(self) -> None:
        """Removes what is not finished."""
        if self._film is not None:
            self._film.release()
        self.part.unlink(missing_ok=True)


class _Frames:
    """A folder of numbered PNGs, there once it is finished."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.part, self.count = path, _part_of(path), 0
        shutil.rmtree(self.part, ignore_errors=True)

    def write(self, frame: np.ndarray) -> None:
        write_image(self.part / f"{self.count:06d}.png", frame)
        self.count += 1

    def finish(self) -> None:
        if self.count:
            shutil.rmtree(self.path, ignore_errors=True)
            self.part.replace(self.path)

    def discard(self) -> None:
        """Removes what is not finished."""
        shutil.rmtree(self.part, ignore_errors=True)
