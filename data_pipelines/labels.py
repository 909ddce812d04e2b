"""Class tables of datasets: names, colors, and the train id of each id in the label files."""

from collections.abc import Sequence
from dataclasses import dataclass

IGNORE_LABEL = 255
"""Train id of pixels that losses and metrics ignore."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset.

    Attributes:
      name: name of the dataset.
      names: names of the classes, in the order of the train ids.
      palette: RGB color of each class, 0..255.
      id_map: pairs (id in the label files, train id or `IGNORE_LABEL`); empty: the files hold train
        ids.
      weights: published weight of each class in the loss; empty: none.
      flip_pairs: pairs of train ids (left, right) to swap in a flipped image.
      categories: category of each class, for benchmarks that score categories; empty: none.
      instance_sizes: average instance size of each class in pixels, 0 for classes without
        instances, for benchmarks that score instances; empty: none.

    Raises:
      ValueError: names, palette, weights, categories or sizes differ in length.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    id_map: tuple[tuple[int, int], ...] = ()
    weights: tuple[float, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    categories: tuple[str, ...] = ()
    instance_sizes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in ("palette", "weights", "categories", "instance_sizes"):
            count = len(getattr(self, field))
            if count != len(self.names) and (count or field == "palette"):
                raise ValueError(
                    f"{field} must have {len(self.names)} values, one per name of {self.name};"
                    f" got {count}"
                )


# Id in the label files, name, color, category, average instance size, weight of HRNet's runs.
_CITYSCAPES: tuple[tuple[int, str, Color, str, float, float], ...] = (
    (7, "road", (128, 64, 128), "flat", 0, 0.8373),
    (8, "sidewalk", (244, 35, 232), "flat", 0, 0.918),
    (11, "building", (70, 70, 70), "construction", 0, 0.866),
    (12, "wall", (102, 102, 156), "construction", 0, 1.0345),
    (13, "fence", (190, 153, 153), "construction", 0, 1.0166),
    (17, "pole", (153, 153, 153), "object", 0, 0.9969),
    (19, "traffic light", (250, 170, 30), "object", 0, 0.9754),
    (20, "traffic sign", (220, 220, 0), "object", 0, 1.0489),
    (21, "vegetation", (107, 142, 35), "nature", 0, 0.8786),
    (22, "terrain", (152, 251, 152), "nature", 0, 1.0023),
    (23, "sky", (70, 130, 180), "sky", 0, 0.9539),
    (24, "person", (220, 20, 60), "human", 3462.4756337644, 0.9843),
    (25, "rider", (255, 0, 0), "human", 3930.4788056518, 1.1116),
    (26, "car", (0, 0, 142), "vehicle", 12794.0202738185, 0.9037),
    (27, "truck", (0, 0, 70), "vehicle", 27855.1264367816, 1.0865),
    (28, "bus", (0, 60, 100), "vehicle", 35732.1511111111, 1.0955),
    (31, "train", (0, 80, 100), "vehicle", 67583.7075812274, 1.0865),
    (32, "motorcycle", (0, 0, 230), "vehicle", 6298.7200839748, 1.1529),
    (33, "bicycle", (119, 11, 32), "vehicle", 4672.3249222261, 1.0507),
)
_CITYSCAPES_TRAIN_IDS = {row[0]: train_id for train_id, row in enumerate(_CITYSCAPES)}

CITYSCAPES = ClassTable(
    name="cityscapes",
    names=tuple(row[1] for row in _CITYSCAPES),
    palette=tuple(row[2] for row in _CITYSCAPES),
    # License plates have id -1, which a PNG of unsigned bytes stores as 255.
    id_map=tuple((i, _CITYSCAPES_TRAIN_IDS.get(i, IGNORE_LABEL)) for i in (*range(-1, 34), 255)),
    categories=tuple(row[3] for row in _CITYSCAPES),
    instance_sizes=tuple(float(row[4]) for row in _CITYSCAPES),
    weights=tuple(row[5] for row in _CITYSCAPES),
)

CAMVID = ClassTable(
    name="camvid",
    names=(
        *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
        *("pedestrian", "bicyclist"),
    ),
    palette=(
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222)),
        *((128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0)),
        (0, 128, 192),
    ),
    id_map=(*((i, i) for i in range(11)), (11, IGNORE_LABEL)),
)

SCENES = ClassTable(
    name="scenes",
    names=(
        *("road", "sidewalk", "building", "vegetation", "sky", "pole", "sign", "car", "person"),
    ),
    palette=(
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (107, 142, 35), (70, 130, 180)),
        *((153, 153, 153), (220, 220, 0), (0, 0, 142), (220, 20, 60)),
    ),
)


def voc_palette(count: int) -> tuple[Color, ...]:
    """Returns the colors of PASCAL VOC: the bits of a class index, distributed over R, G and B."""

    def channel(index: int, offset: int) -> int:
        return sum((index >> (3 * k + offset) & 1) << (7 - k) for k in range(8))

    return tuple((channel(n, 0), channel(n, 1), channel(n, 2)) for n in range(count))


def parse_named_colors(text: str) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Parses the names and RGB colors of `NAME RED GREEN BLUE; NAME RED GREEN BLUE; ...`."""
    rows = [entry.split() for entry in text.split(";")]
    names = tuple(" ".join(words) for *words, _, _, _ in rows)
    return names, tuple((int(red), int(green), int(blue)) for *_, red, green, blue in rows)


def pack_color(color: Sequence[int]) -> int:
    """Returns an RGB color as 0xRRGGBB."""
    return color[0] << 16 | color[1] << 8 | color[2]


def unpack_color(value: int) -> Color:
    """Returns a color 0xRRGGBB as RGB."""
    return value >> 16 & 255, value >> 8 & 255, value & 255


def distinct_colors(count: int) -> tuple[Color, ...]:
    """Returns the distinct RGB colors of PASCAL VOC; grays, used for ignored pixels, come last."""
    colors = voc_palette(256)
    return tuple(sorted(colors, key=lambda color: color[0] == color[1] == color[2] != 0)[:count])


LIP = ClassTable(
    name="lip",
    names=(
        *("background", "hat", "hair", "glove", "sunglasses", "upper clothes", "dress", "coat"),
        *("socks", "pants", "jumpsuit", "scarf", "skirt", "face", "left arm", "right arm"),
        *("left leg", "right leg", "left shoe", "right shoe"),
    ),
    palette=voc_palette(20),
    id_map=(*((i, i) for i in range(20)), (255, IGNORE_LABEL)),
    flip_pairs=((14, 15), (16, 17), (18, 19)),
)

PASCAL_VOC = ClassTable(
    name="pascal_voc",
    names=(
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
        *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
        *("sheep", "sofa", "train", "tvmonitor"),
    ),
    palette=voc_palette(21),
    id_map=(*((i, i) for i in range(21)), (255, IGNORE_LABEL)),
)

_PASCAL_CONTEXT_NAMES = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book"),
    *("bottle", "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth"),
    *("computer", "cow", "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food"),
    *("grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse"),
    *("person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves"),
    *("sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck"),
    *("tvmonitor", "wall", "water", "window", "wood"),
)

# In the prepared labels 0 is background and classes start at 1.
PASCAL_CONTEXT_59 = ClassTable(
    name="pascal_context",
    names=_PASCAL_CONTEXT_NAMES,
    palette=voc_palette(60)[1:],
    id_map=((0, IGNORE_LABEL), *((i + 1, i) for i in range(59)), (255, IGNORE_LABEL)),
)

PASCAL_CONTEXT_60 = ClassTable(
    name="pascal_context",
    names=("background", *_PASCAL_CONTEXT_NAMES),
    palette=voc_palette(60),
    id_map=(*((i, i) for i in range(60)), (255, IGNORE_LABEL)),
)
