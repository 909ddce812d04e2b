"""Whose images are predicted, and what is written of them (needs OpenCV and Pillow)."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gsto_jax.drawing.tiles import write_image
from gsto_jax.errors import UserError
from gsto_jax.files import (
    IMAGE_SUFFIXES,
    TEXT_SUFFIXES,
    atomic_write,
    is_disk_full,
    is_hidden,
    read_json_object,
    to_csv,
    to_json,
    to_unicode,
    walk_files,
    write_text,
)
from gsto_jax.predict.media import VIDEO_SUFFIXES
from gsto_jax.predict.segmentation import Prediction
from gsto_jax.predict.video_writer import VideoWriter

FOLDERS = ("overlay", "color", "ids", "heatmaps", "branches", "gates")
FEATURE_OUTPUTS = {"heatmaps", "branches", "gates"}
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
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(
    arguments: Sequence[str],
    output: Path,
    on_left_out: Callable[[Path], None] = lambda path: None,
) -> list[Input]:
    """Returns the files that arguments name, each once, in their order; names are unique.

    Args:
      arguments: files, folders (all images and videos in them and below, through links, but no
        hidden ones) and patterns such as "photos/**/*.jpg".
      output: folder for the predictions; earlier ones in it are no inputs.
      on_left_out: called with each file that has the suffix of no image, video or text.

    Raises:
      UserError: an argument names nothing; or there is none.
    """
    if not arguments:
        raise UserError("no image is named: give files, folders or patterns behind the flags")
    files: dict[Path, tuple[Path, str]] = {}
    for argument in arguments:
        named = _named(argument, on_left_out)
        inside = [(path, name) for path, name in named if not _is_ours(path, output)]
        if not inside:
            raise UserError(f"{argument!r} names no image or video")
        for path, name in inside:
            files.setdefault(path.resolve(), (path, name))
    inputs: dict[str, Input] = {}
    for path, name in files.values():
        name, suffix = to_unicode(name), to_unicode(path.suffix.lstrip("."))
        unique, number = name, 1
        while unique.casefold() in inputs:
            number += 1
            unique = f"{name}_{suffix}{number if number > 2 else ''}"
        inputs[unique.casefold()] = Input(path, unique)
    return [*inputs.values()]


def _named(argument: str, on_left_out: Callable[[Path], None]) -> Iterator[tuple[Path, str]]:
    place = Path(argument).expanduser()
    if not argument:
        raise UserError("one of the images has an empty name")
    if place.is_file():
        yield place, place.stem
    elif place.is_dir():
        try:
            names = walk_files(place)
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
        for path in map(place.joinpath, names):
            if _is_known(path):
                yield path, path.relative_to(place).with_suffix("").as_posix()
            elif path.suffix.lower() not in TEXT_SUFFIXES:
                on_left_out(path)
    elif glob.has_magic(argument):
        matches = sorted(map(Path, glob.glob(str(place), recursive=True)))
        known = (path for path in matches if _is_known(path) and not is_hidden(path.name))
        files = [path for path in known if path.is_file()]
        base = Path(os.path.commonpath([path.parent for path in files])) if files else place
        for path in files:
            yield path, path.relative_to(base).with_suffix("").as_posix()
    else:
        raise UserError(f"there is no file or folder {argument}")


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _is_ours(path: Path, output: Path) -> bool:
    parents = path.resolve().parents
    return any((output / kind).resolve() in parents for kind in FOLDERS)


class Renderable(Protocol):
    """A prediction: that of `gsto_jax.predict.segmentation` or of `gsto_jax.predict.pose`."""

    def drawn(self, kind: str) -> np.ndarray:
        """Returns an image of a kind, `h w 3` RGB or `h w`, uint8."""


class PredictionWriter:
    """Writes predictions into a folder for each kind, each file whole or not at all.

    `overlay/NAME.jpg`, `color/NAME.png`, `ids/NAME.png` (one channel of class indices), and so on.
    Of a video NAME.mp4 each, and the ids of a frame as `ids/NAME.mp4/000000.png`.

    Args:
      folder: where to.
      kinds: to write.
      drawable: kinds that predictions can draw.
      legend: puts the names of the classes below overlays of labels: those in the image, or in a
        video all.

    Attributes:
      codecs: of the videos that were written, keys of `gsto_jax.predict.video_writer.CODECS`.

    Raises:
      UserError: an unknown kind, or a folder that cannot be written.
    """

    def __init__(
        self, folder: Path, kinds: Sequence[str], drawable: Sequence[str], legend: bool = False
    ) -> None:
        unknown = [kind for kind in kinds if kind not in drawable]
        if unknown or not kinds:
            raise UserError(f"--save={','.join(kinds)}: use some of {', '.join(drawable)}")
        self.folder, self.kinds, self.legend = folder, tuple(dict.fromkeys(kinds)), legend
        self.codecs: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from None

    def write(self, name: str, prediction: Renderable) -> None:
        """Writes an image. Raises OSError if that fails."""
        for kind in self.kinds:
            suffix = ".jpg" if kind == "overlay" else ".png"
            write_image(self.folder / kind / f"{name}{suffix}", self._drawn(prediction, kind))

    def write_video(self, name: str, rate: float, frames: Iterator[Renderable]) -> None:
        """Writes a video, frame by frame.

        Args:
          name: of the files.
          rate: frames a second.
          frames: at least one, of one size each. Should they raise, nothing is kept.

        Raises:
          OSError: a file cannot be written.
        """
        with ExitStack() as stack:
            videos: dict[str, VideoWriter | _Frames] = {}
            for kind in self.kinds:
                path = self.folder / kind / f"{name}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                part = stack.enter_context(atomic_write(path))
                videos[kind] = _Frames(part) if kind == "ids" else VideoWriter(part, rate)
                stack.enter_context(videos[kind])
            for prediction in frames:
                for kind, video in videos.items():
                    video.write(self._drawn(prediction, kind, whole_legend=True))
        writers = (video for video in videos.values() if isinstance(video, VideoWriter))
        self.codecs.update(writer.codec for writer in writers)

    def _drawn(self, prediction: Renderable, kind: str, whole_legend: bool = False) -> np.ndarray:
        image = prediction.drawn(kind)
        if kind == "overlay" and self.legend and isinstance(prediction, Prediction):
            return prediction.with_legend(image, whole_legend)
        return image


def write_classes(folder: Path, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
    """Writes `classes.csv`, the names of ids and colors.

    Raises:
      UserError: the folder cannot be written, or holds predictions of other classes.
    """
    named = enumerate(zip(classes, palette, strict=True))
    rows = ([k, name, *color] for k, (name, color) in named)
    header = ["id", "class", "red", "green", "blue"]
    _write_first(folder / "classes.csv", to_csv(header, rows), "classes")


def write_joints(folder: Path, joints: Sequence[str], skeleton: Sequence[Sequence[int]]) -> None:
    """Writes `joints.json`, the names of the keypoints in `poses.json`.

    Raises:
      UserError: the folder cannot be written, or holds predictions of other joints.
    """
    text = to_json({"joints": list(joints), "skeleton": [list(x) for x in skeleton]}, indent=1)
    _write_first(folder / "joints.json", f"{text}\n", "joints")


def write_poses(folder: Path, persons: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Writes `poses.json`: the persons of each image, by its name. Raises UserError."""
    try:
        write_text(folder / "poses.json", to_json(persons) + "\n")
    except OSError as error:
        raise _unwritable(folder, error) from None


def read_poses(folder: Path) -> dict[str, Any]:
    """Returns what `poses.json` holds; nothing where there is none. Raises UserError."""
    path = folder / "poses.json"
    poses = read_json_object(path) if path.exists() else {}
    if poses is None:
        raise UserError(f"{path} cannot be read, or is none of ours: give another --output")
    return poses


def _write_first(path: Path, text: str, what: str) -> None:
    """Writes a file, or finds it as it would be."""
    try:
        if path.exists() and path.read_text("utf-8", "replace") != text:
            raise UserError(
                f"{path.parent} holds predictions of other {what}: give another --output"
            )
        write_text(path, text)
    except OSError as error:
        raise _unwritable(path.parent, error) from None


def _unwritable(folder: Path, error: OSError) -> Exception:
    if is_disk_full(error):
        return error
    return UserError(f"{folder} cannot be written ({error.strerror}): give a writable --output")


class _Frames:
    """Writes a folder of numbered PNGs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def __enter__(self) -> "_Frames":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, frame: np.ndarray) -> None:
        write_image(self.folder / f"{self.count:06d}.png", frame)
        self.count += 1
