"""Config options of the dataset and its augmentation, declared once and validated."""

from collections.abc import Mapping
from dataclasses import dataclass

from data_pipelines.annotation_options import check_annotations
from data_pipelines.errors import DataError
from data_pipelines.image_class_options import CLASS_SOURCES, ImageCrops, check_image_classes
from data_pipelines.keypoint_options import IdPairs, Keypoints
from data_pipelines.label_options import check_id_map, check_label_encoding, check_val_fraction
from data_pipelines.labels import IGNORE_LABEL, SCENES, distinct_colors
from gsto_jax.config.fields import DATA, RUNTIME, Section, option, subsection
from gsto_jax.image_files import MAX_CHANNELS, DecodeOptions
from gsto_jax.storage import has_scheme

STORAGES = {
    "files": "image files as downloaded",
    "tiles": "losslessly in tiles, of which training decodes those under the crop",
}
SOURCES = {
    "scenes": "synthetic street scenes, rendered on the fly",
    "folder": "image files",
    "tfds": "a dataset written by --mode=prepare or tensorflow-datasets",
    **CLASS_SOURCES,
}
ENCODINGS = {
    "ids": "an id per pixel: gray, or the indices of a palette PNG; see data.id_map",
    "colors": "an RGB color per pixel, looked up in data.palette",
}
_SUFFIX = "suffix of file names, such as '_ids.png', or '' for any image format"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of the RGB pixels of ImageNet."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of the RGB pixels of ImageNet."""
Colors = tuple[tuple[int, int, int], ...]
ClassColors = tuple[tuple[tuple[int, int, int], str], ...]
NamePairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section, prefix="data", role=DATA, error=DataError):
    """A dataset and its augmentation. Lists become tuples."""

    source: str = option("folder", "Where images come from", choices=SOURCES)
    root: str = option(
        "",
        "Folder of the dataset, on a disk or in a bucket (docs/data.md); with source=tfds, of all"
        " prepared datasets",
        role=RUNTIME,
        is_path=True,
    )
    name: str = option("", "Name of the dataset, with source=tfds or class_records")
    storage: str = option(
        "files", "How --mode=prepare stores images", choices=STORAGES, role=RUNTIME
    )
    list_file: str = option(
        "",
        'With source=folder: list of lines "image label", such as "{split}.txt"; \'\': images and'
        " labels are paired by name",
        is_path=True,
    )
    images: str = option(
        "",
        'With source=folder: folder of the images, such as "leftImg8bit/{split}"; with'
        " source=class_folders that of the class folders, '': {split}",
    )
    labels: str = option("", "With source=folder: folder of the label files")
    image_suffix: str = option(
        "",
        "Suffix of the images in the folder, such as _leftImg8bit.png; '': any image format",
        expected=_SUFFIX,
    )
    label_suffix: str = option(
        "", "Suffix of a label, in place of its image's image_suffix", expected=_SUFFIX
    )
    annotations: str = option(
        "",
        'COCO JSON file, such as "annotations/{split}.json", or folder of labelme JSON files, from'
        " which --mode=prepare draws the labels; '': the labels are files",
    )
    category_map: NamePairs = option(
        (),
        "Pairs (category in data.annotations, its class, or 'ignore'); other categories are those"
        " of data.classes by name, or else not drawn",
        expected="pairs (category, class or 'ignore')",
    )
    label_encoding: str = option(
        "ids", "With source=folder: what label files contain", choices=ENCODINGS
    )
    extra_colors: ClassColors = option(
        (),
        "label_encoding=colors: pairs (RGB color, class) of classes with more than the one color of"
        ' palette, such as ((64,0,192),"car")',
        ge=0,
        le=255,
        expected="pairs (RGB color of 0..255, class)",
    )
    ignore_colors: Colors = option(
        (), "label_encoding=colors: RGB colors of pixels to ignore", ge=0, le=255
    )
    color_tolerance: float = option(
        0.0,
        "label_encoding=colors: maximum Euclidean distance in RGB, 0..442, from a pixel to the"
        " nearest color of palette, extra_colors and ignore_colors, whose class it gets; 0: exact"
        " colors only",
        ge=0,
        le=442,
    )
    val_fraction: float = option(
        0.0,
        "Fraction of the images of train_split that are left out of training and make up"
        " eval_split; 0: eval_split has its own files",
        ge=0,
        lt=1,
    )
    val_seed: int = option(0, "Seed of the choice of these images", ge=0)
    alpha: str = option(
        "white",
        "Background of transparent pixels",
        choices={"white": "white", "black": "black", "drop": "none, alpha is ignored"},
    )
    orientation: str = option(
        "upright",
        "Orientation of images",
        choices={"upright": "as EXIF says", "stored": "EXIF is ignored"},
    )
    bit_depth: int = option(
        0, "Bits in use of images with more than 8 bits, such as 10 or 12; 0: all 16 of uint16"
    )
    value_range: tuple[float, float] = option(
        (0.0, 0.0),
        "(low, high), the values of images with more than 8 bits that become 0 and 255; (0, 0): see"
        " bit_depth. Floating-point images need one of both",
    )
    channels: int = option(
        3,
        "Number of channels of the images; 3: RGB, to which all files are converted; otherwise the"
        " channels are those of the file, such as 1 for gray",
        ge=1,
        le=MAX_CHANNELS,
    )
    train_split: str = option("train", "Split to train on; replaces {split} in paths")
    eval_split: str = option("val", "Split to evaluate on", role=RUNTIME)
    test_split: str = option("test", "Split to predict for a submission", role=RUNTIME)
    train_size: int = option(
        0,
        "Number of training images, the first ones; 0: all. Of persons: the first images that hold"
        " as many persons",
        ge=0,
    )
    eval_size: int = option(0, "Number of evaluation images, likewise", ge=0, role=RUNTIME)
    image_size: tuple[int, int] = option(
        (0, 0), "(height, width) in pixels, with source=scenes", ge=0
    )
    classes: tuple[str, ...] = option((), "Names of the classes, in the order of the train ids")
    palette: Colors = option(
        (), "RGB color of each class, 0..255; (): distinct colors", ge=0, le=255
    )
    id_map: IdPairs = option(
        (),
        "Pairs (id in the label files, train id or ignore_label); (): files contain train ids",
        ge=-1,
        le=65535,
        expected="pairs (id in the label files, train id)",
    )
    class_weights: tuple[float, ...] = option(
        (),
        "Weight of each class, if loss.class_weights; --mode=audit prints balanced ones",
        ge=0,
    )
    categories: tuple[str, ...] = option(
        (), "Category of each class, to report category IoU", role=RUNTIME
    )
    instance_sizes: tuple[float, ...] = option(
        (),
        "Average instance size of each class in pixels, to report iIoU; 0: no instances",
        ge=0,
        role=RUNTIME,
    )
    ignore_label: int = option(
        IGNORE_LABEL, "Train id of pixels that losses and metrics ignore", le=255
    )
    crop: tuple[int, int] = option(
        (512, 1024),
        "(height, width) of a training crop in pixels",
        ge=1,
        expected="(height, width) of at least 1 pixel each",
    )
    base_size: int = option(
        0, "Long side of images at scale 1 in pixels, in evaluation too; 0: unchanged", ge=0
    )
    fixed_size: tuple[int, int] = option(
        (0, 0), "(height, width) of images at scale 1, aspect ratio ignored; (0, 0): off", ge=0
    )
    scale_min: float = option(
        0.5, "Training scales are scale_min + k * scale_step for k < num_scales", gt=0
    )
    scale_step: float = option(0.1, "Step between training scales", ge=0)
    num_scales: int = option(17, "Number of training scales", ge=1)
    flip: bool = option(True, "Flips training images left to right with probability 0.5")
    rotation: float = option(
        0.0,
        "Training: maximum rotation of a crop in degrees, in both directions; outside the image "
        "labels are ignored. Of persons: data.keypoints.rotation",
        ge=0,
        le=180,
    )
    flip_pairs: IdPairs = option(
        (), "Pairs of train ids (left, right) to swap in a flipped image", ge=0
    )
    mean: tuple[float, ...] = option(
        IMAGENET_MEAN, "Mean of each channel for normalization, in 0..1", ge=0, le=1
    )
    std: tuple[float, ...] = option(
        IMAGENET_STD, "Standard deviation of each channel for normalization, in 0..1", gt=0, le=1
    )
    workers: int | str = option(
        "auto",
        "Worker processes that load batches, of each process of a run; 0: threads",
        ge=0,
        choices={"auto": "as many as the host's CPUs serve, none if the step runs on them"},
        role=RUNTIME,
        expected="'auto' or a number of processes >= 0",
    )
    keypoints: Keypoints | None = subsection(Keypoints, default=None)
    image_crops: ImageCrops = subsection(ImageCrops)

    def __post_init__(self) -> None:
        """Fills in the default palette, and validates."""
        if isinstance(self.keypoints, Mapping) and not self.keypoints.get("names"):
            object.__setattr__(self, "keypoints", None)
        if (
            not self.palette
            and self.label_encoding == "ids"
            and not self.is_classification
            and isinstance(self.classes, tuple | list)
        ):
            object.__setattr__(self, "palette", distinct_colors(len(self.classes)))
        super().__post_init__()

    @property
    def is_classification(self) -> bool:
        """Whether images have a class each."""
        return self.source in CLASS_SOURCES

    @property
    def decode_options(self) -> DecodeOptions:
        """How image files become arrays."""
        return DecodeOptions.of(vars(self))

    @property
    def train_ids(self) -> dict[int, int]:
        """Train id or `ignore_label` by id in the label files."""
        pairs = self.id_map or (
            *((k, k) for k in range(len(self.classes))),
            (self.ignore_label, self.ignore_label),
        )
        return {
            file_id: self.ignore_label if train_id == IGNORE_LABEL else train_id
            for file_id, train_id in pairs
        }

    def stored_split(self, split: str) -> str:
        """Returns the split whose files a split consists of: see val_fraction."""
        return self.train_split if self.val_fraction and split == self.eval_split else split

    def limit(self, split: str) -> int:
        """Returns the maximum number of images of a split; 0: all."""
        return {self.train_split: self.train_size, self.eval_split: self.eval_size}.get(split, 0)

    def check(self) -> None:
        """Raises DataError for values that do not go together."""
        for name in ("train_split", "eval_split", "test_split"):
            self.require(getattr(self, name), name, "the name of a split, such as 'val'")
        try:
            _ = self.decode_options
        except ValueError as error:
            raise DataError(f"config.data.{error}.") from None
        self._check_channels()
        expected = f"left out unless data.source is one of {', '.join(CLASS_SOURCES)}"
        default_crops = self.image_crops == ImageCrops()
        self.require(self.is_classification or default_crops, "image_crops", expected)
        if self.is_classification:
            check_image_classes(self)
        elif self.keypoints is None:
            self._check_classes()
            check_id_map(self)
        else:
            self._check_persons(self.keypoints)
        check_label_encoding(self)
        check_annotations(self)
        check_val_fraction(self)
        expected = "(height, width), or (0, 0) for none"
        self.require(all(self.fixed_size) == any(self.fixed_size), "fixed_size", expected)
        if self.source == "scenes":
            self._check_scenes()
        else:
            self._check_files()

    def _check_channels(self) -> None:
        expected = (
            f"one value for each channel of data.channels={self.channels}, as --mode=audit"
            " --channel_statistics computes them"
        )
        for name in ("mean", "std"):
            self.require(len(getattr(self, name)) == self.channels, name, expected)

    def _check_persons(self, keypoints: Keypoints) -> None:
        self.require(self.channels == 3, "channels", "3 (RGB) for a pose dataset")
        expected = "0 for a pose dataset, which has data.keypoints.rotation"
        self.require(not self.rotation, "rotation", expected)
        expected = "a (height, width) of multiples of 4, the stride of heatmaps"
        self.require(not any(side % 4 for side in self.crop), "crop", expected)
        expected = "a (height, width) of at least 8 with data.keypoints.udp"
        self.require(min(self.crop) >= 8 or not keypoints.udp, "crop", expected)
        if keypoints.detections:
            expected = "another split than data.train_split with data.keypoints.detections"
            self.require(self.eval_split != self.train_split, "eval_split", expected)

    def _check_classes(self) -> None:
        count = len(self.classes)
        expected = "2 to 255 class names, background included, as in ('background', 'road')"
        self.require(count > 1, "classes", expected)
        expected = (
            "2 to 255 class names, since train ids are bytes; data.id_map can merge ids up to 65535"
            " of the label files into fewer classes"
        )
        self.require(count < 256, "classes", expected, f"{count} names")
        for name in self.classes:
            self.require(name, "classes", "a name for each class", name)
            self.require(self.classes.count(name) == 1, "classes", "different names", name)
        expected = f"one RGB color for each of the {count} classes"
        self.require(len(self.palette) == count, "palette", expected)
        for field in ("class_weights", "categories", "instance_sizes"):
            expected = f"{count} values, one for each class, or none"
            self.require(len(getattr(self, field)) in (0, count), field, expected)
        weights = self.class_weights
        expected = "weights of which one at least is above 0"
        self.require(not weights or any(weights), "class_weights", expected)
        expected = "() without data.categories"
        self.require(self.categories or not self.instance_sizes, "instance_sizes", expected)
        expected = f"a value in {count}..255, which is no class (255 is usual)"
        self.require(self.ignore_label >= count, "ignore_label", expected)
        expected = f"pairs of train ids in 0..{count - 1}"
        for pair in self.flip_pairs:
            self.require(max(pair) < count, "flip_pairs", expected, pair)

    def _check_scenes(self) -> None:
        self.require(self.channels == 3, "channels", "3 (RGB) with data.source=scenes")
        for name in ("train_size", "eval_size"):
            self.require(
                getattr(self, name) >= 1, name, "a number of images above 0 with data.source=scenes"
            )
        expected = "(height, width) of at least 16 pixels each with data.source=scenes"
        self.require(min(self.image_size) >= 16, "image_size", expected)
        expected = f"the {len(SCENES.names)} classes of scenes: {', '.join(SCENES.names)}"
        self.require(len(self.classes) == len(SCENES.names), "classes", expected)
        self.require(not self.id_map, "id_map", "() with data.source=scenes, which has train ids")

    def _check_files(self) -> None:
        expected = "the dataset's folder; pass --config.data.root=FOLDER"
        self.require(self.root, "root", expected)
        if self.source in ("tfds", "class_records"):
            self.require(self.name, "name", "the name of a prepared dataset")
            return
        if self.source == "class_folders" and not self.images:
            return
        paths = ("list_file",) if self.list_file else ("images", "labels")
        if self.source == "class_folders":
            paths = ("images",)
        if self.annotations:
            paths = ("annotations", *paths)
        for name in paths:
            value = getattr(self, name)
            self.require(value, name, "a path, unless data.list_file is set")
            relative = name == "list_file" or not has_scheme(value)
            self.require(relative, name, "a path relative to data.root, which may be a URL")
            try:
                value.format(split="")
                valid = True
            except (AttributeError, IndexError, KeyError, ValueError):
                valid = False
            self.require(valid, name, "a path whose only placeholder is {split}")
        splits = f"{self.train_split} and {self.eval_split}"
        expected = (
            f"a path with {{split}}, so that {splits} differ, unless data.val_fraction is set"
        )
        same_files = self.val_fraction > 0 or self.train_split == self.eval_split
        varies = same_files or "{split}" in getattr(self, paths[0])
        self.require(varies, paths[0], expected)
