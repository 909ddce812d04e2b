"""Class tables: names, colors, and how the ids in the files become train ids."""

from dataclasses import dataclass

IGNORE_LABEL = 255

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """The classes of one dataset.

    Attributes:
        name: the dataset's name.
        names: class names; the position of a name is its train id.
        palette: one RGB color (0..255) for each class.
        id_map: pairs (id in the label file, train id); train id `IGNORE_LABEL` is not scored.
            Empty: the files hold train ids already.
        flip_pairs: train ids that change places in a mirrored image.
        weights: of the classes in a loss, where the dataset's publications give them.
        categories: the group of each class, where its benchmark scores groups.
        instance_sizes: average pixels of an instance by class, 0 for classes without, where its
            benchmark scores instances.

    Raises:
        ValueError: names, palette, weights, categories or sizes differ in length.

    Example:
        >>> CAMVID.names[CAMVID.train_id(3)]
        'road'
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
        for field in ("weights", "categories", "instance_sizes"):
            count = len(getattr(self, field))
            if count not in (0, len(self.names)):
                raise ValueError(f"{self.name}: {len(self.names)} names, {count} {field}.")
        if len(self.names) != len(self.palette):
            raise ValueError(
                f"{self.name}: {len(self.names)} names but {len(self.palette)} colors."
            )

    def train_id(self, raw: int) -> int:
        """Returns the train id of an id found in a label file; KeyError if it has none."""
        return dict(self.id_map)[raw] if self.id_map else raw


_CITYSCAPES_INSTANCES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
_CITYSCAPES_CATEGORIES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
_CITYSCAPES_CLASSES: tuple[tuple[int, str, Color], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)


def _cityscapes_id_map() -> tuple[tuple[int, int], ...]:
    scored = {raw: train for train, (raw, _, _) in enumerate(_CITYSCAPES_CLASSES)}
    # The licence plate's -1 cannot be stored in a PNG of unsigned bytes: it is found there as 255.
    return tuple((raw, scored.get(raw, IGNORE_LABEL)) for raw in (*range(-1, 34), 255))


CITYSCAPES = ClassTable(
    name="cityscapes",
    names=tuple(name for _, name, _ in _CITYSCAPES_CLASSES),
    palette=tuple(color for _, _, color in _CITYSCAPES_CLASSES),
    id_map=_cityscapes_id_map(),
    categories=tuple(
        category
        for _, name, _ in _CITYSCAPES_CLASSES
        for category, members in _CITYSCAPES_CATEGORIES.items()
        if name in members
    ),
    instance_sizes=tuple(
        _CITYSCAPES_INSTANCES.get(name, 0.0) for _, name, _ in _CITYSCAPES_CLASSES
    ),
    # Those of HRNet's published runs.
    weights=(
        *(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
        *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
    ),
)

CAMVID = ClassTable(
    name="camvid",
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    id_map=(*((i, i) for i in range(11)), (11, IGNORE_LABEL)),
)

SCENES = ClassTable(
    name="scenes",
    names=(
        "road",
        "sidewalk",
        "building",
        "vegetation",
        "sky",
        "pole",
        "sign",
        "car",
        "person",
    ),
    palette=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (107, 142, 35),
        (70, 130, 180),
        (153, 153, 153),
        (220, 220, 0),
        (0, 0, 142),
        (220, 20, 60),
    ),
)


def _voc_palette(count: int) -> tuple[Color, ...]:
    """The usual colors of so many ids: the bits of an id, dealt to red, green and blue."""

    def channel(number: int, start: int) -> int:
        return sum((number >> (3 * k + start) & 1) << (7 - k) for k in range(8))

    return tuple((channel(n, 0), channel(n, 1), channel(n, 2)) for n in range(count))


def distinct_colors(count: int) -> tuple[Color, ...]:
    """Returns so many RGB colors, those of PASCAL VOC, with grays last: ignored pixels are gray."""
    colors = _voc_palette(256)
    return tuple(sorted(colors, key=lambda color: color[0] == color[1] == color[2] != 0)[:count])


LIP = ClassTable(
    name="lip",
    names=(
        *("background", "hat", "hair", "glove", "sunglasses", "upper clothes", "dress", "coat"),
        *("socks", "pants", "jumpsuit", "scarf", "skirt", "face", "left arm", "right arm"),
        *("left leg", "right leg", "left shoe", "right shoe"),
    ),
    palette=_voc_palette(20),
    id_map=(*((i, i) for i in range(20)), (255, IGNORE_LABEL)),
    flip_pairs=((14, 15), (16, 17), (18, 19)),
)

_CONTEXT_NAMES = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book"),
    *("bottle", "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth"),
    *("computer", "cow", "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food"),
    *("grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse"),
    *("person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves"),
    *("sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck"),
    *("tvmonitor", "wall", "water", "window", "wood"),
)

# In the records 0 is background, and the classes count from 1.
PASCAL_CONTEXT_59 = ClassTable(
    name="pascal_context",
    names=_CONTEXT_NAMES,
    palette=_voc_palette(60)[1:],
    id_map=((0, IGNORE_LABEL), *((i + 1, i) for i in range(59)), (255, IGNORE_LABEL)),
)

PASCAL_CONTEXT_60 = ClassTable(
    name="pascal_context",
    names=("background", *_CONTEXT_NAMES),
    palette=_voc_palette(60),
    id_map=(*((i, i) for i in range(60)), (255, IGNORE_LABEL)),
)
