"""Finds input files, and writes predictions (needs OpenCV and Pillow)."""

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

OUTPUTS = ("overlay", "color", "ids", "heatmaps", "branches", "gates")
"""Names of all outputs, which are the names of their folders."""
FEATURE_OUTPUTS = {"heatmaps", "branches", "gates"}
"""Outputs that need feature maps."""


@dataclass(frozen=True)
class Input:
    """A file to predict.

    Attributes:
      path: path of the file, as given by the user.
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
    files: dict[Path, tuple[Path, str]] = {}
    for argument in arguments:
        matches = [x for x in _find(argument, on_skipped) if not _is_prediction(x[0], output)]
        if not matches:
            raise UserError(f"{argument!r} matches no image or video")
        for path, name in matches:
            files.setdefault(path.resolve(), (path, name))
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
    root = Path(argument).expanduser()
    if not argument:
        raise UserError("an input must not be empty")
    if root.is_file():
        yield root, root.stem
    elif root.is_dir():
        try:
            names = walk_files(root)
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
        for path in map(root.joinpath, names):
            if _is_image_or_video(path):
                yield path, path.relative_to(root).with_suffix("").as_posix()
            elif path.suffix.lower() not in TEXT_SUFFIXES:
                on_skipped(path)
    elif glob.has_magic(argument):
        files = [
            path
            for path in sorted(map(Path, glob.glob(str(root), recursive=True)))
            if _is_image_or_video(path) and not is_hidden(path.name) and path.is_file()
        ]
        base = Path(os.path.commonpath([path.parent for path in files])) if files else root
        for path in files:
            yield path, path.relative_to(base).with_suffix("").as_posix()
    else:
        raise UserError(f"no such file or folder: {argument}")


def _is_image_or_video(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _is_prediction(path: Path, output: Path) -> bool:
    parents = path.resolve().parents
    return any((output / output_name).resolve() in parents for output_name in OUTPUTS)


class Renderable(Protocol):
    """A prediction, such as `Prediction` or `PosePrediction`."""

    def render(self, output: str) -> np.ndarray:
        """Draws an output, `h w 3` RGB or `h w`, uint8."""


class PredictionWriter:
    """Writes predictions atomically, each output to its own folder.

    Images become `overlay/NAME.jpg`, `color/NAME.png`, `ids/NAME.png` (class indices) and so on;
    videos become `NAME.mp4`, and their class indices `ids/NAME.mp4/000000.png`.

    Args:
      folder: output folder.
      outputs: names of the outputs to write.
      supported: names of the outputs that the predictions can render.
      legend: adds class names below overlays: those in the image, or all for videos.

    Attributes:
      codecs: codecs of the written videos, keys of `gsto_jax.predict.video_writer.CODECS`.

    Raises:
      UserError: an unsupported output, or a folder that is not writable.
    """

    def __init__(
        self, folder: Path, outputs: Sequence[str], supported: Sequence[str], legend: bool = False
    ) -> None:
        if not outputs or not set(outputs) <= set(supported):
            raise UserError(
                f"save must be some of {', '.join(supported)}; got {', '.join(outputs) or 'none'}"
            )
        self.folder, self.outputs, self.legend = folder, tuple(dict.fromkeys(outputs)), legend
        self.codecs: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _write_error(folder, error) from None

    def write(self, name: str, prediction: Renderable) -> None:
        """Writes the outputs of an image; raises OSError."""
        for output in self.outputs:
            suffix = ".jpg" if output == "overlay" else ".png"
            write_image(self.folder / output / f"{name}{suffix}", self._render(prediction, output))

    def write_video(self, name: str, rate: float, frames: Iterator[Renderable]) -> None:
        """Writes the outputs of a video.

        Args:
          name: name of the files.
          rate: frames per second.
          frames: predictions, at least one, of equal size; nothing is written if they raise.

        Raises:
          OSError: a file cannot be written.
        """
        with ExitStack() as stack:
            writers: dict[str, VideoWriter | _FrameWriter] = {}
            for output in self.outputs:
                path = self.folder / output / f"{name}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary_path = stack.enter_context(atomic_write(path))
                if output == "ids":
                    writers[output] = _FrameWriter(temporary_path)
                else:
                    writers[output] = stack.enter_context(VideoWriter(temporary_path, rate))
            for prediction in frames:
                for output, writer in writers.items():
                    writer.write(self._render(prediction, output, all_classes=True))
        self.codecs |= {x.codec for x in writers.values() if isinstance(x, VideoWriter)}

    def _render(self, prediction: Renderable, output: str, all_classes: bool = False) -> np.ndarray:
        image = prediction.render(output)
        if output == "overlay" and self.legend and isinstance(prediction, Prediction):
            return prediction.with_legend(image, all_classes)
        return image


def write_classes(folder: Path, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
    """Writes `classes.csv` with the id, name and color of each class.

    Raises:
      UserError: the folder is not writable, or has predictions of other classes.
    """
    entries = enumerate(zip(classes, palette, strict=True))
    rows = ([k, name, *color] for k, (name, color) in entries)
    header = ["id", "class", "red", "green", "blue"]
    _write_unchanged(folder / "classes.csv", to_csv(header, rows), "classes")


def write_joints(folder: Path, joints: Sequence[str], skeleton: Sequence[Sequence[int]]) -> None:
    """Writes `joints.json` with the names and the skeleton of the joints in `poses.json`.

    Raises:
      UserError: the folder is not writable, or has predictions of other joints.
    """
    text = to_json({"joints": list(joints), "skeleton": [list(x) for x in skeleton]}, indent=1)
    _write_unchanged(folder / "joints.json", f"{text}\n", "joints")


def write_poses(folder: Path, persons: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Writes `poses.json` with the persons of each image by name; raises UserError."""
    try:
        write_text(folder / "poses.json", to_json(persons) + "\n")
    except OSError as error:
        raise _write_error(folder, error) from None


def read_poses(folder: Path) -> dict[str, Any]:
    """Reads `poses.json`, {} if it is missing; raises UserError."""
    path = folder / "poses.json"
    poses = read_json_object(path) if path.exists() else {}
    if poses is None:
        raise UserError(f"{path} must be a JSON object of poses. Choose another output folder")
    return poses


def _write_unchanged(path: Path, text: str, content: str) -> None:
    """Writes a file; raises UserError if it exists with other text."""
    try:
        if path.exists() and path.read_text("utf-8", "replace") != text:
            raise UserError(
                f"{path.parent} has predictions of other {content}. Choose another output folder"
            )
        write_text(path, text)
    except OSError as error:
        raise _write_error(path.parent, error) from None


def _write_error(folder: Path, error: OSError) -> Exception:
    if is_disk_full(error):
        return error
    return UserError(f"cannot write {folder}: {error.strerror}. Choose a writable output folder")


class _FrameWriter:
    """Writes frames as a folder of numbered PNGs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def write(self, frame: np.ndarray) -> None:
        write_image(self.folder / f"{self.count:06d}.png", frame)
        self.count += 1
