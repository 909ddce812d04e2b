"""Draws the labels of a dataset as PNGs, which the source `folder` reads.

Each PNG is written under a temporary name and renamed when complete; the folder is renamed when all
are in it. After an interruption the next call draws those that are missing.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.annotations.image_index import ImageIndex
from data_pipelines.annotations.painting import Painter, left_out, make_painter
from data_pipelines.annotations.reading import read_annotations
from data_pipelines.annotations.shapes import AnnotatedImage, Annotations
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few, strip_suffix
from data_pipelines.files.images import read_image_header
from data_pipelines.files.working_folder import INCOMPLETE_SUFFIX, LOCK, disk_errors, locked
from data_pipelines.sources.drawn_labels import (
    DRAWN_MANIFEST,
    describe_difference,
    draw_options,
    read_manifest,
)
from data_pipelines.sources.fraction import check_no_own_files
from data_pipelines.sources.image_checks import check_annotated_size
from gsto_jax.files import atomic_write, to_json, write_text
from gsto_jax.image_files import DecodeOptions

_IGNORED_COLOR = (255, 255, 255)


@dataclass(frozen=True)
class LabelFolder:
    """The labels of a split, drawn.

    Attributes:
      path: their folder.
      count: number of labels.
      kept: whether they were drawn by an earlier call from the same annotations and options.
      notes: harmless findings.
    """

    path: Path
    count: int
    kept: bool
    notes: tuple[str, ...]


def draw_label_folders(
    config: DataConfig,
    *,
    partial: bool = False,
    threads: int = 2,
    on_progress: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> list[LabelFolder]:
    """Draws the labels of the training and the evaluation split.

    Args:
      config: the dataset, with `annotations`.
      partial: leaves out annotated images that are missing.
      threads: number of labels drawn in parallel.
      on_progress: called with a split, the number of finished labels and of all.

    Raises:
      DataError: annotations or images are missing or invalid, a class names no category, a folder
        of labels exists that was not drawn from these annotations and options, or a full disk.
    """
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder {root}. Set root to the folder of the dataset.")
    check_no_own_files(root, config, config.eval_split)
    annotations = {
        split: read_annotations(root / config.annotations.format(split=split))
        for split in dict.fromkeys(
            map(config.stored_split, (config.train_split, config.eval_split))
        )
    }
    categories = dict.fromkeys(x for part in annotations.values() for x in part.categories)
    painter = make_painter(config, categories)
    drawings = [
        _plan_drawing(config, split, part, painter, partial) for split, part in annotations.items()
    ]
    with disk_errors(root):
        return [drawing.draw(threads, on_progress) for drawing in drawings]


@dataclass(frozen=True)
class _Drawing:
    """The labels of a split, to be drawn.

    Attributes:
      folder: where to.
      images: annotated images by the path of their label in the folder.
      files: image files by the same path.
    """

    config: DataConfig
    split: str
    folder: Path
    annotations: Annotations
    painter: Painter
    images: dict[str, AnnotatedImage]
    files: dict[str, Path]

    def draw(self, threads: int, on_progress: Callable[[str, int, int], None]) -> LabelFolder:
        """Draws the labels that are missing."""
        manifest = {
            "source": self.annotations.name,
            "checksum": self.checksum(),
            "options": draw_options(self.config),
        }
        if self.folder.is_dir() and any(self.folder.iterdir()):
            self._check_existing(manifest)
            return LabelFolder(self.folder, len(self.images), True, ())
        work = self.folder.with_name(f".{self.folder.name}{INCOMPLETE_SUFFIX}")
        work.mkdir(parents=True, exist_ok=True)
        with locked(work):
            if read_manifest(work) != manifest:
                _empty(work)
                write_text(work / DRAWN_MANIFEST, to_json(manifest))
            with ThreadPoolExecutor(threads) as pool:
                futures = [pool.submit(self._draw_label, work, label) for label in self.images]
                try:
                    for done, future in enumerate(futures):
                        on_progress(self.split, done, len(futures))
                        future.result()
                finally:
                    for future in futures:
                        future.cancel()
            on_progress(self.split, len(futures), len(futures))
            os.sync()
            (work / LOCK).unlink()
            work.rename(self.folder)
        return LabelFolder(self.folder, len(self.images), False, self._notes())

    def checksum(self) -> int:
        """Returns a number that changes with the annotations and with the list of images."""
        names = "\n".join(f"{label} {file.name}" for label, file in self.files.items())
        return zlib.crc32(names.encode("utf-8", "surrogateescape"), self.annotations.checksum)

    def _check_existing(self, manifest: dict[str, object]) -> None:
        existing = read_manifest(self.folder)
        options = existing.get("options")
        if not isinstance(options, dict):
            raise DataError(
                f"{self.folder} was not drawn by --mode=prepare, and is not overwritten. Set"
                " data.labels to another folder."
            )
        remedy = "Remove it to draw it again, or set data.labels to another folder"
        if difference := describe_difference(options, self.config):
            raise DataError(f"{self.folder} was drawn with {difference}. {remedy}.")
        if existing.get("checksum") != manifest["checksum"]:
            raise DataError(
                f"{self.folder} was drawn from another content of {self.annotations.name}, or from"
                f" other images. {remedy}."
            )

    def _draw_label(self, work: Path, label: str) -> None:
        path, file, image = work / label, self.files[label], self.images[label]
        if path.is_file() and path.stat().st_size:  # a power failure leaves empty files
            return
        options, notes = self.config.decode_options, self.annotations.notes
        header = read_image_header(file, str(file))
        check_annotated_size(str(file), header, options, image.size)
        pixels = self.painter.draw(image, header.oriented_size(options), notes)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            _save_png(temporary, pixels, self.config)
        if header.orientation != 1:
            notes.add(_orientation_note(options), str(file))

    def _notes(self) -> tuple[str, ...]:
        notes = self.annotations.notes.lines()
        if counts := left_out(self.annotations, self.painter):
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
            notes.append(f"{self.annotations.name}: annotations that are not drawn: {listed}")
        return tuple(notes)


def _plan_drawing(
    config: DataConfig, split: str, annotations: Annotations, painter: Painter, partial: bool
) -> _Drawing:
    """Finds the image file of each annotated image. Raises DataError if some are missing."""
    root = Path(config.root).expanduser()
    folder = root / config.labels.format(split=split)
    index = ImageIndex(root / config.images.format(split=split), config.image_suffix, [folder])
    images: dict[str, AnnotatedImage] = {}
    files: dict[str, Path] = {}
    missing: list[str] = []
    for image in annotations.images:
        name = index.find(image.path, image.stem)
        if name is None:
            missing.append(image.path or image.stem)
            continue
        label = f"{strip_suffix(name, config.image_suffix)}.png"
        if label in images:
            raise DataError(
                f"{image.location} and {images[label].location} are both of the label {label}."
                " Annotate each image once, and give images names that differ in more than the"
                " suffix."
            )
        images[label], files[label] = image, index.folder / name
        if not image.shapes:
            kind = "ignored" if painter.background == painter.ignore else "background"
            text = f"{{count}} images have no annotation, and all their pixels are {kind}"
            annotations.notes.add(text, image.path)
    _check_missing(annotations, index, missing, partial)
    listed = set(files.values())
    for name in index.names:
        if index.folder / name not in listed:
            annotations.notes.add("{count} images have no entry, and no label is drawn", name)
    return _Drawing(config, split, folder, annotations, painter, images, files)


def _check_missing(
    annotations: Annotations, index: ImageIndex, missing: Sequence[str], partial: bool
) -> None:
    total = len(annotations.images)
    if not total:
        raise DataError(f"{annotations.name} has no image. Check data.annotations.")
    if missing and (not partial or len(missing) == total):
        raise DataError(
            f"{len(missing)} of the {total} images of {annotations.name} are not in"
            f" {index.folder}: {first_few(missing)}. Complete that folder, correct data.images, or"
            " pass --partial to leave them out."
        )
    for name in missing:
        annotations.notes.add("{count} images are missing, and are left out", name)


def _orientation_note(options: DecodeOptions) -> str:
    return (
        "{count} images have an EXIF orientation, and their annotations are drawn with"
        f" data.orientation={options.orientation}"
    )


def _save_png(path: Path, label: np.ndarray, config: DataConfig) -> None:
    """Writes a label `h w` as a palette PNG, in which viewers show the colors of the classes."""
    colors = np.zeros((256, 3), np.uint8)
    colors[config.ignore_label] = _IGNORED_COLOR
    colors[: len(config.palette)] = config.palette
    image = Image.fromarray(label)
    image.putpalette(colors.tobytes())
    image.save(path, "PNG")


def _empty(work: Path) -> None:
    for stale in work.iterdir():
        if stale.name != LOCK:
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
