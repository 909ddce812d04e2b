"""Config options of classes of whole images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_pipelines.errors import DataError
from gsto_jax.config.fields import DATA, RUNTIME, Section, option

if TYPE_CHECKING:
    from data_pipelines.config import DataConfig

CLASS_SOURCES = {
    "class_folders": "images in a folder for each class, such as train/cat/1.jpg (classification)",
    "class_records": "the same, as --mode=prepare or tensorflow-datasets wrote it (classification)",
}
"""Sources of images with a class each, and their descriptions."""
_MAX_CLASSES = 2**16
_OTHER_TASKS = (
    *("list_file", "labels", "label_suffix", "label_encoding", "palette", "id_map", "ignore_label"),
    *("class_weights", "categories", "instance_sizes", "base_size", "fixed_size"),
    *("scale_min", "scale_step", "num_scales", "flip_pairs", "rotation"),
)
"""Options of the dataset that only other tasks have."""


@dataclass(frozen=True, kw_only=True)
class ImageCrops(Section, prefix="data.image_crops", role=DATA, error=DataError):
    """Crops of images with a class each, which are resized to data.crop."""

    area: tuple[float, float] = option(
        (0.08, 1.0),
        "Training: (minimum, maximum) fraction of the image's area that a crop covers",
        gt=0,
        le=1,
        expected="(minimum, maximum) in 0..1, ascending",
    )
    aspect: tuple[float, float] = option(
        (3 / 4, 4 / 3),
        "Training: (minimum, maximum) width / height of a crop relative to that of data.crop, drawn"
        " evenly in its logarithm",
        gt=0,
        expected="(minimum, maximum) above 0, ascending",
    )
    center: float = option(
        0.875,
        "Evaluation: size of the crop at the center, relative to the largest one of its shape",
        gt=0,
        le=1,
        role=RUNTIME,
    )

    def check(self) -> None:
        """Raises DataError for a range that descends."""
        for name in ("area", "aspect"):
            low, high = getattr(self, name)
            self.require(low <= high, name, "(minimum, maximum), ascending")


def folder_of(class_name: str) -> str:
    """Returns the short name of a class's folder: its first word, as in "n02123045 tabby"."""
    return class_name.split()[0]


def class_folders(classes: Sequence[str]) -> dict[str, int]:
    """Returns the names of folders and their classes.

    A folder has the name of its class, or the first word of it where no other class has that word
    as its name or the first word of it.
    """
    folders = {name.strip(): label for label, name in enumerate(classes)}
    first_words = Counter(folder_of(name) for name in classes)
    for label, name in enumerate(classes):
        if first_words[folder_of(name)] == 1:
            folders.setdefault(folder_of(name), label)
    return folders


def check_image_classes(config: "DataConfig") -> None:
    """Raises DataError for classes or options that classes of whole images do not have."""
    count = len(config.classes)
    expected = f"2 to {_MAX_CLASSES} class names, as in ('cat', 'dog')"
    config.require(1 < count <= _MAX_CLASSES, "classes", expected, f"{count} names")
    names: set[str] = set()
    for name in config.classes:
        config.require(name.strip(), "classes", "a name for each class", name)
        config.require(name.strip() not in names, "classes", "different names", name)
        names.add(name.strip())
    config.require(config.channels == 3, "channels", "3 (RGB) for images with a class each")
    for name in _OTHER_TASKS:
        default = type(config).__dataclass_fields__[name].default
        expected = f"{default!r} with data.source={config.source}"
        config.require(getattr(config, name) == default, name, expected)
    expected = f"left out with data.source={config.source}"
    config.require(config.keypoints is None, "keypoints", expected)
