"""Whose pictures are predicted, and what is written of them (needs OpenCV and Pillow)."""

import glob
import os
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
      path: its place.
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
      output: folder for what will be written; nothing in it is taken.

    Returns:
      In the order of the arguments, sorted within each; no two names are equal.

    Raises:
      UserError: an argument names nothing; or there is none.
    """
    if not arguments:
        raise UserError("no picture is named: give files, folders or patterns behind the flags")
    found: dict[Path, str] = {}
    for argument in arguments:
        inside = [(path, name) for path, name in _named(argument) if not _lies_in(path, output)]
        if not inside:
            raise UserError(f"{argument!r} names no picture or video")
        for path, name in inside:
            found.setdefault(path.resolve(), name)
    taken: set[str] = set()
    inputs = []
    for path, name in found.items():
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
    if place.is_file():
        yield place, place.stem
    elif place.is_dir():
        for path in sorted(place.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
            if path.is_file() and not hidden and path.suffix.lower() in (*IMAGES, *VIDEOS):
                yield path, path.relative_to(place).with_suffix("").as_posix()
    elif glob.has_magic(argument):
        matches = sorted(map(Path, glob.glob(str(place), recursive=True)))
        files = [path for path in matches if path.is_file()]
        base = Path(os.path.commonpath([path.parent for path in files])) if files else place
        for path in files:
            yield path, path.relative_to(base).with_suffix("").as_posix()
    else:
        raise UserError(f"there is no file or folder {argument}")


def _lies_in(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


class PredictionWriter:
    """Writes predictions into a folder for each kind.

    `overlay/NAME.jpg`, `color/NAME.png`, `ids/NAME.png` (one channel of class indices, listed in
    `classes.csv`), `branches/NAME.png`, `gates/NAME.png`. Of a video NAME.mp4 each, and the ids of
    a frame as `ids/NAME/000000.png`. Each file is written under another name and then renamed.

    Args:
      folder: where to.
      kinds: some of `KINDS`.
      classes: names.
      palette: their colours.

    Raises:
      UserError: an unknown kind, or a folder that cannot be written.
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
        lines = ["id,class,red,green,blue"]
        for k, (name, color) in enumerate(zip(classes, palette, strict=True)):
            quoted = '"' + name.replace('"', '""') + '"' if {",", '"'} & set(name) else name
            lines.append(",".join([str(k), quoted, *map(str, color)]))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "classes.csv").write_text("\n".join(lines) + "\n")
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
          frames: of one size each. What they raise is raised again, and what was written by then
            is kept.

        Raises:
          OSError: a file cannot be written.
        """
        films: dict[str, _Film] = {}
        try:
            for number, prediction in enumerate(frames):
                for kind in self.kinds:
                    if kind == "ids":
                        path = self.folder / kind / name / f"{number:06d}.png"
                        _write_image(path, _drawn(kind, prediction))
                        continue
                    if kind not in films:
                        films[kind] = _Film(self.folder / kind / f"{name}.mp4", rate)
                    films[kind].write(_drawn(kind, prediction))
        finally:
            for film in films.values():
                film.close()


def _drawn(kind: str, prediction: Prediction) -> np.ndarray:
    draw: dict[str, Callable[[], np.ndarray]] = {
        "overlay": prediction.overlay,
        "color": prediction.colors,
        "ids": lambda: prediction.labels,
        "branches": lambda: branch_figure(prediction.image, prediction.maps),
        "gates": lambda: gate_figure(prediction.image, prediction.maps),
    }
    return draw[kind]()


def _write_image(path: Path, image: np.ndarray) -> None:
    part = path.with_name(f".{path.name}.part{path.suffix}")
    write_image(part, image)
    part.replace(path)


class _Film:
    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.part = path.with_name(f".{path.name}.part.mp4")
        self._film: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        # Half the resolution in colour: sides must be even.
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if self._film is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code, size = cv2.VideoWriter.fourcc(*"mp4v"), (frame.shape[1], frame.shape[0])
            self._film = cv2.VideoWriter(str(self.part), code, self.rate, size)
            if not self._film.isOpened():
                raise OSError(f"cannot write {self.path}")
        self._film.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._film is not None:
            self._film.release()
            self.part.replace(self.path)
