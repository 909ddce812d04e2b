"""Writes predictions (needs OpenCV and Pillow)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gsto_jax.drawing.tiles import write_image
from gsto_jax.errors import UserError
from gsto_jax.files import (
    atomic_write,
    is_disk_full,
    make_folder,
    read_json_object,
    to_csv,
    to_json,
    write_text,
)
from gsto_jax.predict.georeference import Georeference, GeoTiffWriter
from gsto_jax.predict.outputs import ARRAY_OUTPUTS, GEOTIFF_OUTPUTS, JPEG_OUTPUTS, MEASURES
from gsto_jax.predict.prediction import UNSURE, Prediction, legend_below
from gsto_jax.predict.strip_writers import JpegWriter, NpyWriter, PngRowWriter, StripWriter
from gsto_jax.predict.video_writer import VideoWriter
from gsto_jax.segmentation.panels import color_table
from gsto_jax.storage import error_reason
from gsto_jax.types import Size


class Renderable(Protocol):
    """A prediction, such as `Prediction` or `PosePrediction`."""

    def render(self, output: str) -> np.ndarray:
        """Draws an output, `h w 3` RGB or `h w`, uint8."""


class PredictionWriter:
    """Writes predictions atomically, each output to its own folder.

    Images become `overlay/NAME.jpg`, `color/NAME.png`, `ids/NAME.png` (class indices) and so on,
    class probabilities `probabilities/NAME.npy`. Videos become `NAME.mp4`, and their class indices,
    probabilities and measures folders of frames such as `ids/NAME.mp4/000000.png`. PNGs of images
    with a georeference become `NAME.tif`.

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
            make_folder(folder)
        except OSError as error:
            raise _write_error(folder, error) from None

    def write(
        self, name: str, prediction: Renderable, georeference: Georeference | None = None
    ) -> None:
        """Writes the outputs of an image; raises OSError."""
        for output in self.outputs:
            path = self._path(output, name, georeference)
            pixels = self._render(prediction, output)
            if path.suffix == ".tif" and isinstance(prediction, Prediction):
                with atomic_write(path) as temporary:
                    size = prediction.labels.shape
                    writer = _strip_writer(temporary, output, size, prediction, georeference)
                    with writer:
                        writer.write(pixels)
            else:
                _write_pixels(path, pixels)

    def write_rows(
        self,
        name: str,
        size: Size,
        predictions: Iterable[Prediction],
        georeference: Georeference | None = None,
    ) -> None:
        """Writes the outputs of an image in strips, as they are predicted.

        Overlays of large images are overviews, see `JpegWriter`.

        Args:
          name: name of the files.
          size: (h, w) of the image.
          predictions: of successive rows of the image; nothing is written if they raise.
          georeference: of the image; None for none.

        Raises:
          OSError: a file cannot be written.
        """
        with ExitStack() as stack:
            writers: dict[str, StripWriter] = {}
            labels: set[int] = set()
            for strip in predictions:
                for output in self.outputs:
                    if output not in writers:
                        path = self._path(output, name, georeference)
                        temporary = stack.enter_context(atomic_write(path))
                        writer = _strip_writer(temporary, output, size, strip, georeference)
                        writers[output] = stack.enter_context(writer)
                    writers[output].write(strip.render(output))
                if self.legend:
                    labels |= {*np.unique(strip.labels).tolist()}
            overlay = writers.get("overlay")
            if self.legend and isinstance(overlay, JpegWriter):
                overlay.decorate = lambda image: legend_below(image, strip, sorted(labels))

    def _path(self, output: str, name: str, georeference: Georeference | None) -> Path:
        """Returns the path of an output."""
        suffix = _suffix(output)
        if georeference is not None and output in GEOTIFF_OUTPUTS:
            suffix = ".tif"
        return self.folder / output / f"{name}{suffix}"

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
                temporary_path = stack.enter_context(atomic_write(path))
                if output in ARRAY_OUTPUTS:
                    writers[output] = _FrameWriter(temporary_path, _suffix(output))
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


def _suffix(output: str) -> str:
    """Returns the suffix of the files of an output."""
    if output == "probabilities":
        return ".npy"
    return ".jpg" if output in JPEG_OUTPUTS else ".png"


def _write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Writes an image or, by suffix, an array atomically; raises OSError."""
    if path.suffix != ".npy":
        write_image(path, pixels)
        return
    with atomic_write(path) as temporary, NpyWriter(temporary, pixels.shape[:2]) as writer:
        writer.write(pixels)


def _strip_writer(
    path: Path,
    output: str,
    size: Size,
    prediction: Prediction,
    georeference: Georeference | None,
) -> StripWriter:
    """Returns the writer of an output in strips."""
    if georeference is not None and path.suffix == ".tif":
        return GeoTiffWriter(
            path,
            size=size,
            bands=3 if output == "color" else 1,
            georeference=georeference,
            palette=color_table(prediction.palette).tolist() if output == "ids" else None,
            scale=1 / 255 if output in MEASURES else 1.0,
        )
    if path.suffix == ".jpg":
        return JpegWriter(path, size)
    return NpyWriter(path, size) if path.suffix == ".npy" else PngRowWriter(path, size)


def write_classes(
    folder: Path,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    unsure_label: int | None = None,
) -> None:
    """Writes `classes.csv` with the id, name and color of each class and of unsure pixels.

    Raises:
      UserError: the folder is not writable, or has predictions of other classes.
    """
    entries = enumerate(zip(classes, palette, strict=True))
    rows: list[list[Any]] = [[k, name, *color] for k, (name, color) in entries]
    if unsure_label is not None:
        rows.append([unsure_label, UNSURE[0], *UNSURE[1]])
    header = ["id", "class", "red", "green", "blue"]
    _write_unchanged(folder / "classes.csv", to_csv(header, rows), "classes")


def write_class_names(folder: Path, classes: Sequence[str]) -> None:
    """Writes `classes.csv` with the id and name of each class of whole images.

    Raises:
      UserError: the folder is not writable, or has predictions of other classes.
    """
    text = to_csv(["id", "class"], [[k, name] for k, name in enumerate(classes)])
    _write_unchanged(folder / "classes.csv", text, "classes")


def write_joints(folder: Path, joints: Sequence[str], skeleton: Sequence[Sequence[int]]) -> None:
    """Writes `joints.json` with the names and the skeleton of the joints in `poses.json`.

    Raises:
      UserError: the folder is not writable, or has predictions of other joints.
    """
    text = to_json({"joints": list(joints), "skeleton": [list(x) for x in skeleton]}, indent=1)
    _write_unchanged(folder / "joints.json", f"{text}\n", "joints")


def write_poses(folder: Path, persons: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Writes `poses.json` with the persons of each image by name; raises UserError."""
    write_results(folder / "poses.json", persons)


def read_poses(folder: Path) -> dict[str, Any]:
    """Reads `poses.json`, {} if it is missing; raises UserError."""
    return read_results(folder / "poses.json")


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Writes a JSON file with the results of each image by name; raises UserError."""
    try:
        write_text(path, to_json(results) + "\n")
    except OSError as error:
        raise _write_error(path.parent, error) from None


def read_results(path: Path) -> dict[str, Any]:
    """Reads a file of `write_results`, {} if it is missing; raises UserError."""
    results = read_json_object(path) if path.exists() else {}
    if results is None:
        raise UserError(
            f"{path} must be a JSON object of {path.stem}. Choose another output folder"
        )
    return results


def _write_unchanged(path: Path, text: str, content: str) -> None:
    """Writes a file; raises UserError if it exists with other text."""
    try:
        if path.exists() and path.read_bytes().decode("utf-8", "replace") != text:
            raise UserError(
                f"{path.parent} has predictions of other {content}. Choose another output folder"
            )
        write_text(path, text)
    except OSError as error:
        raise _write_error(path.parent, error) from None


def _write_error(folder: Path, error: OSError) -> Exception:
    if is_disk_full(error):
        return error
    return UserError(
        f"cannot write {folder}: {error_reason(error)}. Choose a writable output folder"
    )


class _FrameWriter:
    """Writes frames as a folder of numbered files."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix, self.count = folder, suffix, 0

    def write(self, frame: np.ndarray) -> None:
        _write_pixels(self.folder / f"{self.count:06d}{self.suffix}", frame)
        self.count += 1
