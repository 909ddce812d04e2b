"""Detects how label files code their classes, as ids or colors, and counts their pixels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few
from data_pipelines.files.images import decode_colors, decode_label
from data_pipelines.files.retry import read_bytes
from data_pipelines.labels import Color, pack_color, unpack_color
from data_pipelines.sources.label_inspection import lossy_format_name
from data_pipelines.sources.stats import count_pixels
from gsto_jax.image_files import DecodeOptions, ImageError, open_image

MAX_LABELS = 1000
"""Maximum number of label files that are read; more take minutes."""
_PROBED_LABELS = 24
"""Number of label files by which the coding is decided."""
_MIN_SHARE = 1e-3
"""Minimum fraction of the pixels that a color of altered labels must have to be a class."""
_MIN_DISTANCE = 40.0
"""Minimum distance between the colors of two classes of altered labels."""
_SNAP = 6
_MAX_VALUES = 6
"""Number of values up to which labels count as unaltered."""
_MIN_EQUAL = 0.35
"""Fraction of a value's pixels that equal their right and lower neighbors, below which the value
counts as one of borders."""
_OPTIONS = DecodeOptions(alpha="drop")


@dataclass
class Coding:
    """The coding of classes in labels, and the pixels of each value.

    Attributes:
      encoding: "ids" or "colors", as `data.label_encoding`.
      description: the encoding in words.
      pixels: number of pixels by id, or by color 0xRRGGBB.
      images: number of labels by id or color.
      palette: RGB color of ids, from palette files.
      tolerance: distance to the nearest class color up to which a color is of the class; 0: exact.
      num_read: number of labels read.
      num_labels: number of labels.
      doubts: decisions that may be wrong.
    """

    encoding: str
    description: str
    pixels: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    palette: dict[int, Color] = field(default_factory=dict)
    tolerance: int = 0
    num_read: int = 0
    num_labels: int = 0
    doubts: list[str] = field(default_factory=list)

    @property
    def is_sample(self) -> bool:
        """Whether not all labels were read."""
        return self.num_read < self.num_labels

    def share(self, value: int) -> float:
        """Returns the fraction of the pixels with an id or color."""
        return self.pixels[value] / max(self.pixels.total(), 1)


def inspect_coding(labels: Sequence[Path], class_colors: Sequence[Color] = ()) -> Coding:
    """Reads up to `MAX_LABELS` labels and detects how they code their classes.

    Args:
      labels: the label files.
      class_colors: colors of the classes, if a file lists them.

    Raises:
      DataError: no label can be read.
    """
    probes = [_probe(path) for path in _spread(labels, _PROBED_LABELS)]
    usable = [probe for probe in probes if not probe.error]
    if not usable:
        raise DataError(probes[0].error)
    coding = Coding(*_choose_encoding(usable), num_labels=len(labels))
    coding.palette = _shared_palette(usable) if coding.encoding == "ids" else {}
    chosen = _spread(labels, MAX_LABELS)
    equal: Counter[int] = Counter()
    damaged = []
    with ThreadPoolExecutor(4) as pool:
        for path, counts in zip(
            chosen, pool.map(lambda path: _count(path, coding.encoding), chosen), strict=True
        ):
            if counts is None:
                damaged.append(path)
                continue
            coding.num_read += 1
            coding.pixels.update(counts.pixels)
            coding.images.update(counts.pixels.keys())
            equal.update(counts.equal)
    if damaged:
        coding.doubts.append(f"labels that cannot be read: {len(damaged)}, {first_few(damaged)}")
    lossy = sorted({probe.lossy for probe in usable} - {""})
    if lossy:
        coding.doubts.append(
            f"labels are stored as {lossy[0]}, which alters them: convert the originals to PNG if"
            " you have them"
        )
    if lossy or _looks_altered(coding.pixels, equal):
        _merge_altered(coding, equal, class_colors)
    return coding


@dataclass(frozen=True)
class _Probe:
    error: str = ""
    kind: str = ""
    lossy: str = ""
    palette: dict[int, Color] = field(default_factory=dict)
    used: frozenset[int] = frozenset()
    is_color: bool = False


def _probe(path: Path) -> _Probe:
    """Detects how one label file is stored."""
    try:
        data = read_bytes(path)
        with open_image(data) as image:
            mode = image.mode
            colors = np.reshape(image.getpalette() or (), (-1, 3)) if mode == "P" else ()
    except DataError as error:
        return _Probe(error=str(error))
    except ImageError as error:
        return _Probe(error=f"Cannot decode {path}: {error}.")
    lossy = lossy_format_name(data)
    try:
        ids = decode_label(data, str(path), _OPTIONS)
    except DataError as error:
        try:
            decode_colors(data, str(path), _OPTIONS)
        except DataError:
            return _Probe(error=str(error))
        return _Probe(
            kind="RGBA colors" if mode == "RGBA" else "RGB colors", lossy=lossy, is_color=True
        )
    palette = {k: _color(color) for k, color in enumerate(colors)}
    used = frozenset(np.unique(ids).tolist())
    kind = "palette images" if mode == "P" else f"ids of {8 * ids.dtype.itemsize} bits"
    return _Probe(kind=kind, lossy=lossy, palette=palette, used=used)


def _color(values: Iterable[int]) -> Color:
    red, green, blue = map(int, values)
    return red, green, blue


def _choose_encoding(probes: Sequence[_Probe]) -> tuple[str, str]:
    """Returns the encoding and its description."""
    kinds = " and ".join(dict.fromkeys(probe.kind for probe in probes))
    if any(probe.is_color for probe in probes):
        return "colors", kinds
    colors: dict[int, Color] = {}
    for probe in probes:
        for index, color in probe.palette.items():
            if index in probe.used and colors.setdefault(index, color) != color:
                return "colors", f"{kinds} whose palettes differ from file to file"
    return "ids", kinds


def _shared_palette(probes: Sequence[_Probe]) -> dict[int, Color]:
    return {index: color for probe in probes for index, color in probe.palette.items()}


@dataclass(frozen=True)
class _Counts:
    pixels: dict[int, int]
    equal: dict[int, int]
    """Number of pixels by value that equal their right and lower neighbors."""


def _count(path: Path, encoding: str) -> _Counts | None:
    decode = decode_colors if encoding == "colors" else decode_label
    try:
        values = decode(read_bytes(path), str(path), _OPTIONS)
    except DataError:
        return None
    inner = values[:-1, :-1]
    equal = inner[(inner == values[:-1, 1:]) & (inner == values[1:, :-1])]
    return _Counts(_count_values(values), _count_values(equal))


def _count_values(values: np.ndarray) -> dict[int, int]:
    if values.dtype != np.uint32:  # ids
        return count_pixels(values)
    present, counts = np.unique(values, return_counts=True)
    return dict(zip(present.tolist(), counts.tolist(), strict=True))


def _looks_altered(pixels: Counter[int], equal: Counter[int]) -> bool:
    """Returns whether most values are those of borders between areas, as in smooth masks."""
    borders = sum(equal[value] < _MIN_EQUAL * count for value, count in pixels.items())
    return len(pixels) > _MAX_VALUES and borders > len(pixels) / 2


def _merge_altered(coding: Coding, equal: Counter[int], class_colors: Sequence[Color]) -> None:
    """Assigns the altered values to the nearest color of an area, with a tolerance."""
    if coding.encoding == "ids" and max(coding.pixels) > 255:
        coding.doubts.append("most ids are those of single pixels: these may be no class maps")
        return
    if coding.encoding == "ids":  # a gray value is a color, so that there is a distance
        coding.encoding, class_colors = "colors", ()
        for name in ("pixels", "images"):
            gray = {pack_color((k, k, k)): n for k, n in getattr(coding, name).items()}
            setattr(coding, name, Counter(gray))
        equal = Counter({pack_color((k, k, k)): n for k, n in equal.items()})
    classes = [pack_color(color) for color in class_colors] or _area_colors(coding, equal)
    colors = np.array([unpack_color(value) for value in classes], np.float32)
    pixels: Counter[int] = Counter()
    largest = 0.0
    for value, count in coding.pixels.items():
        distances = np.linalg.norm(colors - np.array(unpack_color(value), np.float32), axis=1)
        nearest = int(distances.argmin())
        largest = max(largest, float(distances[nearest]))
        pixels[classes[nearest]] += count
    coding.doubts.append(
        f"{len(coding.pixels)} colors occur, most of them at borders of areas: each pixel gets the"
        f" nearest of {len(classes)} colors; original masks would be better"
    )
    coding.tolerance = min(442, ceil(largest * (1.25 if coding.is_sample else 1)) + 2 * _SNAP)
    coding.images = Counter({_snap(value): coding.images[value] for value in classes})
    coding.pixels = Counter({_snap(value): count for value, count in pixels.items()})


def _snap(color: int) -> int:
    """Returns a color whose channels near 0 or 255 are 0 or 255."""
    return pack_color(
        [0 if c < _SNAP else 255 if c > 255 - _SNAP else c for c in unpack_color(color)]
    )


def _area_colors(coding: Coding, equal: Counter[int]) -> list[int]:
    """Returns the frequent colors of areas, each at a distance from more frequent ones."""
    classes: list[int] = []
    for value, count in coding.pixels.most_common():
        if coding.share(value) < _MIN_SHARE:
            break
        color = np.array(unpack_color(value), float)
        distances = [np.linalg.norm(color - unpack_color(other)) for other in classes]
        if min(distances, default=_MIN_DISTANCE) >= _MIN_DISTANCE and (
            equal[value] >= _MIN_EQUAL * count
        ):
            classes.append(value)
    return classes or [coding.pixels.most_common(1)[0][0]]


def _spread(labels: Sequence[Path], count: int) -> list[Path]:
    """Returns up to `count` labels spread evenly."""
    return list(labels[:: -(-len(labels) // count) or 1])
