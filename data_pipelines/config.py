"""Config options of the dataset and its augmentation, declared once and validated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.labels import IGNORE_LABEL, SCENES, distinct_colors
from gsto_jax.config.fields import DATA, RUNTIME, Section, option, subsection
from gsto_jax.image_files import DecodeOptions

STORAGES = ("files", "tiles")
SOURCES = {
    "scenes": "drawn on the fly",
    "folder": "image files",
    "tfds": "a prepared dataset",
}
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Keypoints(Section, prefix="data.keypoints", role=DATA, error=DataError):
    """The joints of persons, and how persons are cropped."""

    names: tuple[str, ...] = option((), "Of the joints, in order; none: not a pose dataset")
    flip_pairs: Pairs = option((), "Joints that change places in a mirrored image", ge=0)
    skeleton: Pairs = option((), "Pairs of joints to draw a line between", ge=0)
    sigmas: tuple[float, ...] = option(
        (), "Deviations of the object keypoint similarity, one per joint", gt=0
    )
    padding: float = option(1.25, "Size of the crop relative to a person's box", ge=0.1, le=10)
    rotation: float = option(
        45.0, "Training images turn by at most so many degrees ...", ge=0, le=180
    )
    scale: float = option(0.35, "... and change their size by at most this share", ge=0, le=0.99)
    detections: str = option(
        "", "JSON file of boxes to evaluate on; empty: the true boxes", role=RUNTIME
    )
    category: str = option(
        "",
        "Name or id of the category in COCO files; empty: the only one with keypoints, or 'person'",
        expected="the name or id of a category, or ''",
    )

    def __post_init__(self) -> None:
        """Raises DataError for a value out of range, with the field and the remedy."""
        category: Any = self.category
        if type(category) is int and category >= 0:
            object.__setattr__(self, "category", str(category))
        super().__post_init__()

    def check(self) -> None:
        """Raises DataError for joints that do not exist, or sigmas of other joints."""
        last = len(self.names) - 1
        for name in ("flip_pairs", "skeleton"):
            for pair in getattr(self, name):
                self.require(max(pair) <= last, name, f"give pairs of joints in 0..{last}", pair)
        remedy = f"give a positive number for each of the {last + 1} joints"
        self.require(len(self.sigmas) == len(self.names), "sigmas", remedy)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section, prefix="data", role=DATA, error=DataError):
    """A dataset and its augmentation. Lists become tuples."""

    source: str = option("folder", "Source", choices=SOURCES)
    root: str = option(
        "",
        "folder: directory of the dataset; tfds: directory of prepared datasets",
        role=RUNTIME,
    )
    name: str = option("", "tfds: name of the dataset")
    storage: str = option(
        "files",
        "Storage of images when a dataset is prepared",
        choices={"files": "as downloaded", "tiles": "decode only the crop"},
        role=RUNTIME,
    )
    list_file: str = option(
        "", 'folder: "{split}.txt" of lines "image label"; empty: the two directories below'
    )
    images: str = option("", 'folder: directory of the images, such as "leftImg8bit/{split}"')
    labels: str = option("", "folder: directory of the label PNGs")
    image_suffix: str = option(
        "",
        "folder: an image's name less this suffix, such as _leftImg8bit.png; empty: any image "
        "format's ...",
        expected="what names end with, such as '_ids.png', or '' for any image format",
    )
    label_suffix: str = option(
        "",
        "... plus this one is its label's; likewise",
        expected="what names end with, such as '_ids.png', or '' for any image format",
    )
    alpha: str = option(
        "white",
        "Background of transparent pixels (docs/data.md)",
        choices={"white": "white", "black": "black", "drop": "their hidden color"},
    )
    orientation: str = option(
        "upright",
        "Orientation of image files",
        choices={"upright": "as EXIF says", "stored": "as the file's rows are"},
    )
    bit_depth: int = option(
        0, "Bits that 16-bit files really use, such as 10 or 12; 0: their own range"
    )
    train_split: str = option("train", "What {split} stands for in training")
    eval_split: str = option("val", "What {split} stands for in evaluation", role=RUNTIME)
    test_split: str = option("test", "What {split} stands for in submissions", role=RUNTIME)
    train_size: int = option(
        0,
        "scenes: how many images to draw; folder: the first so many, 0: all; persons: those of the "
        "first images that hold so many",
        ge=0,
    )
    eval_size: int = option(0, "The same of the evaluation split", ge=0, role=RUNTIME)
    image_size: tuple[int, int] = option((0, 0), "scenes: height and width", ge=0)
    classes: tuple[str, ...] = option((), "Names of the classes, in the order of the train ids")
    palette: tuple[tuple[int, int, int], ...] = option(
        (), "Their RGB colors; empty: distinct ones", ge=0, le=255
    )
    id_map: Pairs = option(
        (),
        "Pairs (id in the file, train id or ignore_label); empty: files hold train ids",
        ge=-1,
        le=65535,
        expected="pairs (id in the file, train id)",
    )
    class_weights: tuple[float, ...] = option(
        (), "One weight per class, for loss.class_weights", ge=0
    )
    categories: tuple[str, ...] = option(
        (), "The group of each class, for the IoU of groups", role=RUNTIME
    )
    instance_sizes: tuple[float, ...] = option(
        (),
        "Average pixels of an instance per class, 0 for classes without, for iIoU",
        ge=0,
        role=RUNTIME,
    )
    ignore_label: int = option(IGNORE_LABEL, "Train id of pixels that do not count", le=255)
    crop: tuple[int, int] = option(
        (512, 1024),
        "Height and width of a training sample",
        ge=1,
        expected="(height, width) of at least 1 pixel each",
    )
    base_size: int = option(0, "Long side at scale 1, in tests too; 0: the image's own", ge=0)
    fixed_size: tuple[int, int] = option(
        (0, 0), "Height and width at scale 1 whatever the proportions; (0, 0): none", ge=0
    )
    scale_min: float = option(0.5, "Scales are scale_min + k * scale_step ...", gt=0)
    scale_step: float = option(0.1, "Step between scales", ge=0)
    scale_count: int = option(17, "... with k below this", ge=1)
    flip: bool = option(True, "Mirrors half of the training samples")
    flip_pairs: Pairs = option((), "Train ids that change places in a mirrored image", ge=0)
    mean: tuple[float, float, float] = option(
        (0.485, 0.456, 0.406), "Mean of RGB in 0..1; ImageNet's", ge=0, le=1
    )
    std: tuple[float, float, float] = option(
        (0.229, 0.224, 0.225), "Standard deviation of RGB in 0..1; ImageNet's", gt=0, le=1
    )
    workers: int = option(
        0, "Processes that prepare training samples; 0: threads", ge=0, role=RUNTIME
    )
    keypoints: Keypoints | None = subsection(Keypoints, default=None)

    def __post_init__(self) -> None:
        """Raises DataError for a value that cannot work, with the field and the remedy."""
        if isinstance(self.keypoints, Mapping) and not self.keypoints.get("names"):
            object.__setattr__(self, "keypoints", None)
        if not self.palette and isinstance(self.classes, tuple | list):
            object.__setattr__(self, "palette", distinct_colors(len(self.classes)))
        super().__post_init__()

    def check(self) -> None:
        """Raises DataError for values that do not go together."""
        for name in ("train_split", "eval_split", "test_split"):
            self.require(getattr(self, name), name, "name a split, e.g. 'val'")
        try:
            _ = self.decode_options
        except ValueError as error:
            raise DataError(f"config.data: {error}.") from None
        if self.keypoints is None:
            self._check_classes()
        else:
            self._check_persons(self.keypoints)
        remedy = "give (height, width), or (0, 0) for none"
        self.require(all(self.fixed_size) == any(self.fixed_size), "fixed_size", remedy)
        if self.source == "scenes":
            self._check_scenes()
        else:
            self._check_files()

    def _check_persons(self, keypoints: Keypoints) -> None:
        remedy = "give persons a (height, width) of multiples of 4, the stride of heatmaps"
        self.require(not any(side % 4 for side in self.crop), "crop", remedy)
        if keypoints.detections:
            remedy = "with keypoints.detections evaluate on another split than train_split"
            self.require(self.eval_split != self.train_split, "eval_split", remedy)

    @property
    def decode_options(self) -> DecodeOptions:
        """How image files become RGB."""
        return DecodeOptions.of(vars(self))

    def limit(self, split: str) -> int:
        """Returns how many images of a split to use; 0 for all."""
        return {self.train_split: self.train_size, self.eval_split: self.eval_size}.get(split, 0)

    def _check_classes(self) -> None:
        count = len(self.classes)
        self.require(
            1 < count < 256,
            "classes",
            f"give 2 to 255 class names, not {count}; where one thing is told from the rest, the "
            "rest is a class too, such as ('background', 'road')",
        )
        for name in self.classes:
            self.require(name, "classes", "every class is a name", name)
            self.require(self.classes.count(name) == 1, "classes", "name it once", name)
        remedy = f"give one RGB color for each of the {count} classes"
        self.require(len(self.palette) == count, "palette", remedy)
        for field in ("class_weights", "categories", "instance_sizes"):
            remedy = f"give {count}, one for each class, or none"
            self.require(len(getattr(self, field)) in (0, count), field, remedy)
        weights = self.class_weights
        remedy = "give some class a weight above 0, or nothing is learned"
        self.require(not weights or any(weights), "class_weights", remedy)
        remedy = "give the category of each class too"
        self.require(self.categories or not self.instance_sizes, "instance_sizes", remedy)
        remedy = f"use a value in {count}..255, which no class has (255 is usual)"
        self.require(self.ignore_label >= count, "ignore_label", remedy)
        remedy = f"give pairs of train ids in 0..{count - 1}"
        for pair in self.flip_pairs:
            self.require(max(pair) < count, "flip_pairs", remedy, pair)
        self._check_id_map(count)

    def _check_id_map(self, count: int) -> None:
        ids = [raw for raw, _ in self.id_map]
        remedy = f"use a train id in 0..{count - 1} or the ignore label {self.ignore_label}"
        for pair in self.id_map:
            raw, train = pair
            self.require(ids.count(raw) == 1, "id_map", f"keep one pair of id {raw}", pair)
            ignored = train in (IGNORE_LABEL, self.ignore_label)
            self.require(0 <= train < count or ignored, "id_map", remedy, pair)

    def _check_scenes(self) -> None:
        for name in ("train_size", "eval_size"):
            self.require(getattr(self, name) >= 1, name, "scenes need a number of images")
        remedy = "give scenes a (height, width) of at least 16 pixels each"
        self.require(min(self.image_size) >= 16, "image_size", remedy)
        remedy = f"scenes draw {len(SCENES.names)} classes: {', '.join(SCENES.names)}"
        self.require(len(self.classes) == len(SCENES.names), "classes", remedy)
        self.require(not self.id_map, "id_map", "scenes draw train ids: leave it empty")

    def _check_files(self) -> None:
        remedy = "give the dataset's directory as --config.data.root=FOLDER"
        self.require(self.root, "root", remedy)
        if self.source == "tfds":
            self.require(self.name, "name", "name the prepared dataset")
            return
        templates = ("list_file",) if self.list_file else ("images", "labels")
        for name in templates:
            value = getattr(self, name)
            remedy = "without a list_file the folder source needs the directories images and labels"
            self.require(value, name, remedy)
            try:
                value.format(split="")
                valid = True
            except (AttributeError, IndexError, KeyError, ValueError):
                valid = False
            self.require(valid, name, "the only placeholder is {split}")
        remedy = f"it is the same for {self.train_split} and {self.eval_split}: put {{split}} in it"
        varies = "{split}" in getattr(self, templates[0]) or self.train_split == self.eval_split
        self.require(varies, templates[0], remedy)
