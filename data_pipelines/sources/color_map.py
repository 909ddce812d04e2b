"""Maps the colors in label files to train ids."""

from typing import Any

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.images import decode_colors
from data_pipelines.labels import unpack_color
from data_pipelines.sources.label_map import UNKNOWN, LabelCounts, LabelMap, list_values
from data_pipelines.sources.stats import Issue
from gsto_jax.image_files import DecodeOptions

_CHUNK = 2**16
"""Number of colors whose distances to all classes are computed at once."""
_MAX_COUNTED = 256
"""Number of unknown colors of a label that are counted individually; a photo has thousands."""
OTHER_COLORS = 2**24
"""Stands for the unknown colors that are not counted individually."""


class ColorMap:
    """Lookup table from colors in label files to train ids.

    Colors that `palette`, `extra_colors` and `ignore_colors` lack get the class of the nearest one
    within `color_tolerance` by Euclidean distance in RGB; of equally near ones the first.

    Args:
      config: the dataset.
    """

    value_noun = "colors"

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        train_ids = {name: train_id for train_id, name in enumerate(config.classes)}
        classes = [
            *zip(config.palette, config.classes, strict=True),
            *config.extra_colors,
            *((color, "") for color in config.ignore_colors),
        ]
        self._names = [repr(name) if name else "ignored" for _, name in classes]
        self._colors = np.array([color for color, _ in classes], np.float32)
        self._train_ids = np.array(
            [train_ids.get(name, config.ignore_label) for _, name in classes], np.int16
        )
        packing = np.array([2**16, 2**8, 1], np.float32)
        self._exact = (self._colors @ packing).astype(np.uint32)
        # Train id by color; `_resolve` adds inexact colors when they occur.
        self._table = np.full(2**24, UNKNOWN, np.int16)
        self._table[self._exact] = self._train_ids
        self._remedy = (
            "add the colors to data.palette, data.extra_colors or data.ignore_colors, or set"
            " data.color_tolerance for anti-aliased labels"
        )

    def __reduce__(self) -> Any:
        """Pickles the config alone: a worker process builds its own table of 32 MB."""
        return ColorMap, (self._config,)

    def decode(self, data: bytes, name: str, options: DecodeOptions) -> np.ndarray:
        """Decodes a label file: colors `h w` uint32, 0xRRGGBB. Raises DataError."""
        return decode_colors(data, name, options)

    def train_ids(self, colors: np.ndarray, name: str) -> np.ndarray:
        """Returns the train ids of a label, uint8. Raises DataError for unknown colors."""
        train_ids = self._table[colors]
        unknown = train_ids == UNKNOWN
        if unknown.any() and self._resolve(np.unique(colors[unknown])):
            train_ids = self._table[colors]
            unknown = train_ids == UNKNOWN
        if unknown.any():
            values, counts = np.unique(colors[unknown], return_counts=True)
            issue = self.unknown_issue(name, _count(values, counts), colors.size)
            raise DataError(f"{issue}.")
        return train_ids.astype(np.uint8)

    def count(self, colors: np.ndarray) -> LabelCounts:
        """Counts the train ids and the unknown colors of a label."""
        values, counts = np.unique(colors, return_counts=True)
        self._resolve(values[self._table[values] == UNKNOWN])
        train_ids = self._table[values]
        unknown = train_ids == UNKNOWN
        pixels: dict[int, int] = {}
        for train_id in np.unique(train_ids[~unknown]).tolist():
            pixels[train_id] = int(counts[train_ids == train_id].sum())
        inexact = ~unknown & ~np.isin(values, self._exact)
        return LabelCounts(
            pixels=pixels,
            unknown=_count(values[unknown], counts[unknown]),
            file_ids={},
            inexact=int(counts[inexact].sum()),
        )

    def altered_fraction(self, colors: np.ndarray) -> float:
        """Returns the fraction of pixels that have no exact color of the palette."""
        return float((~np.isin(colors, self._exact)).mean()) if colors.size else 0.0

    def unknown_issue(self, subject: str, unknown: dict[int, int], size: int) -> Issue:
        """Returns the issue of a label with unknown colors, with the nearest class of each.

        Args:
          subject: name of the label.
          unknown: number of pixels of each unknown color.
          size: number of pixels of the label.
        """
        fraction = sum(unknown.values()) / max(size, 1)
        detail = list_values(unknown, self._describe, OTHER_COLORS in unknown)
        swapped = [_swap_channels(color) for color in unknown]
        if unknown and np.isin(swapped, self._exact).all():
            detail += "; in BGR order all have a class: swap red and blue in data.palette"
        return Issue(subject, "colors without a class", detail, self._remedy, fraction)

    def _describe(self, color: int, count: int) -> str:
        if color == OTHER_COLORS:
            return f"other colors ({count} px)"
        (index,), (distance,) = self._nearest(np.array([color], np.uint32))
        return (
            f"{unpack_color(color)} ({count} px, nearest {self._names[index]}"
            f" {unpack_color(int(self._exact[index]))} at distance {distance:.0f})"
        )

    def _resolve(self, colors: np.ndarray) -> bool:
        """Adds colors within the tolerance to the table; returns whether there are any."""
        if not self._config.color_tolerance:
            return False
        index, distance = self._nearest(colors)
        near = distance <= self._config.color_tolerance
        self._table[colors[near]] = self._train_ids[index[near]]
        return bool(near.any())

    def _nearest(self, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the index of the nearest class color of each color, and its distance."""
        index, distance = np.zeros(len(colors), np.intp), np.zeros(len(colors), np.float32)
        for start in range(0, len(colors), _CHUNK):
            part = slice(start, start + _CHUNK)
            rgb = np.stack([colors[part] >> shift & 255 for shift in (16, 8, 0)], 1)
            rgb = rgb.astype(np.float32)
            # |a - b|^2 = |a|^2 - 2 ab + |b|^2, exact since all terms are below 2**24.
            squares = (rgb**2).sum(1)[:, None] + (self._colors**2).sum(1) - 2 * rgb @ self._colors.T
            index[part] = squares.argmin(1)
            distance[part] = np.sqrt(squares.min(1))
        return index, distance


def make_label_map(config: DataConfig) -> LabelMap | ColorMap:
    """Builds the lookup table of a dataset's labels, of ids or of colors."""
    return LabelMap(config) if config.label_encoding == "ids" else ColorMap(config)


def format_value(config: DataConfig, value: int) -> str:
    """Formats a value in the label files, such as "id 7" or "color (0, 0, 255)"."""
    if config.label_encoding == "ids":
        return f"id {value}"
    return "other colors" if value == OTHER_COLORS else f"color {unpack_color(value)}"


def _swap_channels(color: int) -> int:
    """Returns a color with red and blue exchanged."""
    return int.from_bytes(color.to_bytes(4)[:0:-1])


def _count(colors: np.ndarray, counts: np.ndarray) -> dict[int, int]:
    """Returns the number of pixels by color, most frequent first, the rare ones summed."""
    order = np.argsort(-counts, kind="stable")
    first, rest = order[:_MAX_COUNTED], order[_MAX_COUNTED:]
    listed = dict(zip(colors[first].tolist(), counts[first].tolist(), strict=True))
    return listed | ({OTHER_COLORS: int(counts[rest].sum())} if rest.size else {})
