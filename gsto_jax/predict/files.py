"""Writes predictions (needs OpenCV and Pillow)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gsto_jax.drawing.tiles import write_image
from gsto_jax.errors import UserError
from gsto_jax.files import (
    atomic_write,
    is_disk_full,
    read_json_object,
    to_csv,
    to_json,
    write_text,
)
from gsto_jax.predict.segmentation import Prediction
from gsto_jax.predict.video_writer import VideoWriter


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
