"""What the data pipelines are told: one frozen, validated record."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.labels import IGNORE_LABEL, SCENES, distinct_colors
from gsto_jax.image_files import ImageRule

STORAGES = ("files", "tiles")
SOURCES = ("scenes", "folder", "tfds")


@dataclass(frozen=True, kw_only=True)
class Keypoints:
    """The joints of persons, and how their pictures are cut out.

    Attributes:
        names: of the joints, in their order.
        flip_pairs: joints that change places in a mirrored picture.
        skeleton: pairs of joints to draw a line between.
        sigmas: deviations of the object keypoint similarity, one a joint.
        padding: how much larger than a person's box the picture cut out is.
        rotation: training pictures turn by at most so many degrees.
        scale: and change their size by at most this share.
        detections: a JSON file of boxes to evaluate on, instead of the true ones.
        category: name or id of the category in the COCO file; "": the only one with keypoints, or
            else "person".

    Raises:
        DataError: a value that cannot work, with its name and the remedy.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...]
    padding: float = 1.25
    rotation: float = 45.0
    scale: float = 0.35
    detections: str = ""
    category: str = ""

    def __post_init__(self) -> None:
        _freeze(self, ("names", "flip_pairs", "skeleton", "sigmas"), "keypoints.")
        category = self.category
        _require(
            isinstance(category, str) or _is_int(category, 0),
            f"keypoints.category is {category!r}",
            "give the name or id of a category, or ''",
        )
        object.__setattr__(self, "category", str(category))
        last = len(self.names) - 1
        for name in ("flip_pairs", "skeleton"):
            for pair in getattr(self, name):
                _require(
                    _is_ints(pair, 2, 0, last),
                    f"keypoints.{name} holds {pair!r}",
                    f"give pairs of joints in 0..{last}",
                )
        _require(
            len(self.sigmas) == len(self.names)
            and all(_is_number(value) and value > 0 for value in self.sigmas),
            f"keypoints.sigmas is {self.sigmas!r}",
            f"give a positive number for each of the {len(self.names)} joints",
        )
        for name, low, high in (("padding", 0.1, 10), ("rotation", 0, 180), ("scale", 0, 0.99)):
            value = getattr(self, name)
            _require(
                _is_number(value) and low <= value <= high,
                f"keypoints.{name} is {value!r}",
                f"give a number in {low}..{high}",
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Describes a data set and its augmentation. Lists are accepted and stored as tuples.

    Attributes:
        source: "scenes" (drawn street pictures, no files), "folder" (image files) or "tfds" (a
            prepared data set).
        root: folder: the data set's directory; tfds: the directory of prepared data sets.
        name: tfds only: of the data set.
        storage: of pictures when a data set is prepared: "files" or "tiles".
        list_file: folder only: a file under root, e.g. "{split}.txt", of `image label` lines;
            empty: the two folders below are walked instead.
        images, labels: folder only: directories under root, e.g. "leftImg8bit/{split}".
        image_suffix, label_suffix: folder only: a label's name is its image's with the suffix
            swapped, e.g. "_leftImg8bit.png" and "_gtFine_labelIds.png"; empty for the suffix of any
            image format. Upper and lower case are the same.
        alpha, orientation, bit_depth: how image files become RGB; see `ImageRule`.
        train_split, eval_split, test_split: what takes the place of {split}; the last is for
            submissions.
        train_size, eval_size: how many pictures; folder: the first so many, 0 for all.
        image_size: scenes only: (h, w).
        classes: class names in the order of their train ids.
        palette: one RGB colour for each class; empty for distinct ones of our choice.
        id_map: pairs (id in the file, train id); a train id may be 255 or `ignore_label` for
            pixels that are not scored. Empty: files hold train ids.
        class_weights: of the loss, one for each class; may be empty.
        categories: the group of each class, for scores of groups; may be empty.
        instance_sizes: average pixels of an instance by class, 0 for classes without, for scores of
            instances; may be empty.
        ignore_label: the id of pixels that are not scored.
        crop: (h, w) of a training picture.
        base_size: the long side at scale 1; 0 stands for the picture's own.
        scale_min, scale_step, scale_count: scales are scale_min + scale_step * k, k < scale_count.
        fixed_size: (h, w) at scale 1 of every picture, whatever its proportions; (0, 0): as
            base_size says.
        flip: whether half of the training pictures are mirrored.
        flip_pairs: train ids that change places in a mirrored picture.
        mean, std: RGB in 0..1, applied on the device.
        workers: processes that prepare training batches; 0: threads of this process.
        keypoints: of a pose data set; None (or no names in it) for segmentation.

    Raises:
        DataError: a value that cannot work, with its name and the remedy.
    """

    source: str
    root: str = ""
    name: str = ""
    storage: str = "files"
    list_file: str = ""
    images: str = ""
    labels: str = ""
    image_suffix: str = ""
    label_suffix: str = ""
    alpha: str = "white"
    orientation: str = "upright"
    bit_depth: int = 0
    train_split: str = "train"
    eval_split: str = "val"
    test_split: str = "test"
    train_size: int = 0
    eval_size: int = 0
    image_size: tuple[int, int] = (0, 0)
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()
    id_map: tuple[tuple[int, int], ...] = ()
    class_weights: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    instance_sizes: tuple[float, ...] = ()
    ignore_label: int = IGNORE_LABEL
    crop: tuple[int, int]
    base_size: int = 0
    scale_min: float = 0.5
    scale_step: float = 0.1
    scale_count: int = 17
    fixed_size: tuple[int, int] = (0, 0)
    flip: bool = True
    flip_pairs: tuple[tuple[int, int], ...] = ()
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    workers: int = 0
    keypoints: Keypoints | None = None

    def __post_init__(self) -> None:
        self._freeze_sequences()
        if not self.palette:
            object.__setattr__(self, "palette", distinct_colors(len(self.classes)))
        if isinstance(self.keypoints, Mapping):
            named = self.keypoints.get("names")
            object.__setattr__(self, "keypoints", Keypoints(**self.keypoints) if named else None)
        _require(
            self.source in SOURCES, f"source is {self.source!r}", f"use one of {', '.join(SOURCES)}"
        )
        for name in ("train_split", "eval_split", "test_split"):
            value = getattr(self, name)
            _require(
                isinstance(value, str) and value, f"{name} is {value!r}", "name a split, e.g. 'val'"
            )
        try:
            _ = self.image_rule
        except ValueError as error:
            raise DataError(f"config.data: {error}.") from None
        if self.keypoints is None:
            self._check_classes()
        else:
            self._check_persons(self.keypoints)
        self._check_augmentation()
        if self.source == "scenes":
            self._check_scenes()
        else:
            self._check_files()

    def _check_persons(self, keypoints: Keypoints) -> None:
        _require(
            _is_ints(self.crop, 2, 4) and not any(side % 4 for side in self.crop),
            f"crop is {self.crop!r}",
            "give persons a (height, width) of multiples of 4, the stride of heatmaps",
        )
        if keypoints.detections:
            _require(
                self.eval_split != self.train_split,
                f"keypoints.detections are given, and eval_split is the training split,"
                f" {self.train_split}",
                "evaluate on another split, or on true boxes",
            )

    @property
    def image_rule(self) -> ImageRule:
        """How image files become RGB."""
        return ImageRule.of(vars(self))

    def limit(self, split: str) -> int:
        """How many pictures of a split to use; 0 for all."""
        return {self.train_split: self.train_size, self.eval_split: self.eval_size}.get(split, 0)

    def _freeze_sequences(self) -> None:
        names = (
            "image_size",
            "classes",
            "palette",
            "id_map",
            "class_weights",
            "categories",
            "instance_sizes",
            "crop",
            "fixed_size",
            "flip_pairs",
            "mean",
            "std",
        )
        _freeze(self, names)

    def _check_classes(self) -> None:
        count = len(self.classes)
        _require(
            1 < count < 256,
            f"classes has {count} name{'s' if count != 1 else ''}",
            "give 2 to 255 class names; where one thing is told from the rest, the rest is a class"
            " too, such as ('background', 'road')",
        )
        for name in self.classes:
            _require(
                isinstance(name, str) and name, f"classes holds {name!r}", "every class is a name"
            )
            _require(
                self.classes.count(name) == 1, f"classes holds {name!r} twice", "remove one of them"
            )
        _require(
            len(self.palette) == count,
            f"palette has {len(self.palette)} colours for {count} classes",
            "give one RGB colour for each class",
        )
        for colour in self.palette:
            _require(
                _is_ints(colour, 3, 0, 255), f"palette holds {colour!r}", "a colour is 3 x 0..255"
            )
        _require(
            len(self.class_weights) in (0, count)
            and all(_is_number(weight) and weight >= 0 for weight in self.class_weights),
            f"class_weights is {self.class_weights!r}",
            f"give {count} numbers of at least 0, or none",
        )
        _require(
            not self.class_weights or any(self.class_weights),
            f"class_weights is {self.class_weights!r}",
            "give some class a weight above 0, or nothing is learned",
        )
        for name in ("categories", "instance_sizes"):
            given = len(getattr(self, name))
            _require(given in (0, count), f"{name} has {given} values", f"give {count}, or none")
        _require(
            bool(self.categories) or not self.instance_sizes,
            "instance_sizes are given without categories",
            "give the category of each class too",
        )
        _require(
            all(_is_number(size) and size >= 0 for size in self.instance_sizes),
            f"instance_sizes is {self.instance_sizes!r}",
            "give numbers of at least 0",
        )
        _require(
            _is_int(self.ignore_label, count, 255),
            f"ignore_label is {self.ignore_label!r}",
            f"use a value in {count}..255, which no class has (255 is usual)",
        )
        self._check_id_map(count)

    def _check_id_map(self, count: int) -> None:
        seen: set[int] = set()
        for pair in self.id_map:
            _require(
                _is_ints(pair, 2, -1, 65535),
                f"id_map holds {pair!r}",
                "give pairs (id in the file, train id)",
            )
            raw, train = pair
            _require(raw not in seen, f"id_map holds id {raw} twice", "keep one of them")
            seen.add(raw)
            _require(
                0 <= train < count or train in (IGNORE_LABEL, self.ignore_label),
                f"id_map sends {raw} to {train}",
                f"use a train id in 0..{count - 1} or the ignore label {self.ignore_label}",
            )

    def _check_augmentation(self) -> None:
        _require(_is_ints(self.crop, 2, 1), f"crop is {self.crop!r}", "give (height, width)")
        _require(
            _is_int(self.base_size, 0),
            f"base_size is {self.base_size!r}",
            "give the long side in pixels, or 0 for the picture's own",
        )
        _require(
            _is_number(self.scale_min) and self.scale_min > 0,
            f"scale_min is {self.scale_min!r}",
            "give a positive number",
        )
        _require(
            _is_number(self.scale_step) and self.scale_step >= 0,
            f"scale_step is {self.scale_step!r}",
            "give a number of at least 0",
        )
        _require(
            _is_int(self.scale_count, 1),
            f"scale_count is {self.scale_count!r}",
            "give the number of scales, 1 for a single one",
        )
        _require(
            _is_ints(self.fixed_size, 2, 0) and all(self.fixed_size) == any(self.fixed_size),
            f"fixed_size is {self.fixed_size!r}",
            "give (height, width), or (0, 0) for none",
        )
        for pair in self.flip_pairs:
            _require(
                _is_ints(pair, 2, 0, len(self.classes) - 1),
                f"flip_pairs holds {pair!r}",
                f"give pairs of train ids in 0..{len(self.classes) - 1}",
            )
        _require(isinstance(self.flip, bool), f"flip is {self.flip!r}", "give True or False")
        for name in ("mean", "std"):
            value = getattr(self, name)
            _require(
                len(value) == 3 and all(_is_number(v) and 0 <= v <= 1 for v in value),
                f"{name} is {value!r}",
                "give three RGB numbers in 0..1",
            )
        _require(all(v > 0 for v in self.std), f"std is {self.std!r}", "0 cannot divide")
        _require(
            _is_int(self.workers, 0),
            f"workers is {self.workers!r}",
            "give the number of processes, 0 for threads",
        )

    def _check_scenes(self) -> None:
        for name in ("train_size", "eval_size"):
            value = getattr(self, name)
            _require(_is_int(value, 1), f"{name} is {value!r}", "scenes need a number of pictures")
        _require(
            _is_ints(self.image_size, 2, 16),
            f"image_size is {self.image_size!r}",
            "give scenes a (height, width) of at least 16 pixels each",
        )
        _require(
            len(self.classes) == len(SCENES.names),
            f"classes has {len(self.classes)} names",
            f"scenes draw {len(SCENES.names)} classes: {', '.join(SCENES.names)}",
        )
        _require(not self.id_map, "id_map is set", "scenes draw train ids: leave it empty")

    def _check_files(self) -> None:
        for name in ("train_size", "eval_size"):
            value = getattr(self, name)
            _require(_is_int(value, 0), f"{name} is {value!r}", "give a number, 0 for all pictures")
        _require(
            isinstance(self.root, str) and self.root,
            f"root is {self.root!r}",
            "give the dataset's directory as --config.data.root=FOLDER",
        )
        if self.source == "tfds":
            _require(
                isinstance(self.name, str) and self.name,
                f"name is {self.name!r}",
                "name the prepared data set",
            )
            _require(
                self.storage in STORAGES,
                f"storage is {self.storage!r}",
                f"use {' or '.join(STORAGES)}",
            )
            return
        if self.list_file:
            templates: tuple[str, ...] = ("list_file",)
        else:
            templates = ("images", "labels")
            for name in templates:
                value = getattr(self, name)
                _require(
                    isinstance(value, str) and value,
                    f"{name} is {value!r}",
                    "without a list_file the folder source needs the directories images and labels",
                )
            for name in ("image_suffix", "label_suffix"):
                value = getattr(self, name)
                _require(
                    isinstance(value, str),
                    f"{name} is {value!r}",
                    "give what names end with, such as '_ids.png', or '' for any image format",
                )
        for name in templates:
            value = getattr(self, name)
            try:
                value.format(split="")
            except (AttributeError, IndexError, KeyError, ValueError):
                raise DataError(
                    f"config.data.{name} is {value!r}; the only placeholder is {{split}}."
                ) from None
        first = getattr(self, templates[0])
        _require(
            "{split}" in first or self.train_split == self.eval_split,
            f"{templates[0]} is {first!r}, the same for {self.train_split} and {self.eval_split}",
            "put {split} in it",
        )


def _require(holds: object, fault: str, remedy: str) -> None:
    if not holds:
        raise DataError(f"config.data.{fault}; {remedy}.")


def _freeze(config: Any, names: Iterable[str], place: str = "") -> None:
    """Makes tuples of the sequences in a frozen record."""
    for name in names:
        value = getattr(config, name)
        _require(
            isinstance(value, Iterable) and not isinstance(value, str),
            f"{place}{name} is {value!r}",
            "give a list or a tuple",
        )
        object.__setattr__(config, name, _as_tuples(value))


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(_as_tuples(item) for item in value)
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_int(value: object, low: int, high: int | None = None) -> bool:
    return (
        isinstance(value, Integral)
        and not isinstance(value, bool)
        and low <= int(value)
        and (high is None or int(value) <= high)
    )


def _is_ints(value: object, count: int, low: int, high: int | None = None) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == count
        and all(_is_int(item, low, high) for item in value)
    )
