"""Inspects the folder of a dataset and proposes a config for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few, list_files
from data_pipelines.inspection.annotations import find_annotations, inspect_annotations
from data_pipelines.inspection.class_names import find_names_files, listed_colors
from data_pipelines.inspection.classes import ClassProposal, propose_classes
from data_pipelines.inspection.coding import Coding, inspect_coding
from data_pipelines.inspection.file_names import count_by_suffix, parse_names
from data_pipelines.inspection.layout import Layout, find_label_files, flatness
from data_pipelines.inspection.sizes import SizeProposal, propose_sizes
from gsto_jax.files import IMAGE_SUFFIXES

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_EXPECTED = (
    "Expected are images and, for each, a label image or annotations in COCO or labelme JSON"
)
_MIN_LABEL_FLATNESS = 0.9


@dataclass(frozen=True)
class Proposal:
    """A proposed config.

    Attributes:
      layout: where the files are.
      coding: how labels code their classes.
      classes: the classes.
      sizes: options that depend on sizes.
      val_fraction: fraction of the images to evaluate on; 0: the layout says which.
    """

    layout: Layout
    coding: Coding
    classes: ClassProposal
    sizes: SizeProposal
    val_fraction: float

    @property
    def doubts(self) -> list[str]:
        """Decisions that may be wrong."""
        return [*self.layout.doubts, *self.coding.doubts, *self.classes.doubts]


def propose(root: Path, memory: int, on_cpu: bool) -> Proposal:
    """Proposes a config for the images and labels below a folder.

    Args:
      root: the folder.
      memory: bytes that a training may use.
      on_cpu: whether it runs without an accelerator.

    Raises:
      DataError: there is no such folder, or it has no images with usable labels.
    """
    layout = find_layout(root)
    pairs = [pair for split in layout.pairs.values() for pair in split]
    places = dict.fromkeys(label.parent for _, label in pairs)
    names_files = find_names_files(root, places)
    if layout.annotated:
        coding, classes = inspect_annotations(layout, names_files)
    else:
        coding = inspect_coding([label for _, label in pairs], listed_colors(names_files))
        classes = propose_classes(coding, names_files)
    if layout.eval_split.lower().startswith("te"):
        layout.doubts.append(f"there is no validation split: {layout.eval_split} is evaluated on")
    count = len(layout.pairs[layout.train_split])
    val_fraction = 0.0
    if not layout.eval_split and count > 1:
        val_fraction = 0.2 if count < 500 else 0.1
    num_train = max(1, count - round(val_fraction * count))
    sizes = propose_sizes([image for image, _ in pairs], num_train, memory, on_cpu)
    return Proposal(layout, coding, classes, sizes, val_fraction)


def find_layout(root: Path) -> Layout:
    """Finds the images below a folder, their labels and their splits. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"There is no folder {root}. Set --source to the folder of the dataset.")
    paths = list_files(root)
    images = [path for path in paths if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise _no_images_error(root, paths)
    errors: list[str] = []
    layout = find_label_files(root, images, paths)
    if layout is None:
        layout, errors = find_annotations(root, images, paths)
    if layout is None:
        raise _no_labels_error(root, images, errors)
    return layout


def _no_images_error(root: Path, paths: Sequence[str]) -> DataError:
    if not paths:
        return DataError(f"{root} is empty. {_EXPECTED}.")
    archives = [path for path in paths if PurePosixPath(path).suffix.lower() in _ARCHIVES]
    if archives:
        return DataError(f"{root} has no images, but archives: unpack {first_few(archives)}.")
    return DataError(f"{root} has no images; it contains {first_few(paths)}. {_EXPECTED}.")


def _no_labels_error(root: Path, images: Sequence[str], errors: Sequence[str]) -> DataError:
    """Returns an error that describes the files of a folder without labels."""
    sample = images[:: -(-len(images) // 8) or 1]
    flat = sum(flatness(root / path) for path in sample) / len(sample)
    kinds = ", ".join(f"{n} {suffix}" for suffix, n in count_by_suffix(parse_names(images)).items())
    contents = f"{root} has {len(images)} images ({kinds})"
    if errors:
        return DataError(f"{contents} and no labels: {errors[0]}")
    folders = sorted({PurePosixPath(path).parent.name for path in images})
    if flat > _MIN_LABEL_FLATNESS:
        return DataError(
            f"{contents} which look like labels, and no photos with the same names. Set --source to"
            " a folder that contains both."
        )
    if 1 < len(folders) <= len(images) / 2:
        return DataError(
            f"{contents} in the folders {first_few(folders)}, and no labels. If the folders are"
            " classes, these are labels of whole images, for classification: segmentation needs a"
            " label image, or polygons, for each image."
        )
    return DataError(f"{contents} and no labels. {_EXPECTED}.")
