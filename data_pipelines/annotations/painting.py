"""Draws the shapes of an image as a label map."""

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from data_pipelines.annotation_options import BACKGROUND, IGNORE
from data_pipelines.annotations.regions import rasterize
from data_pipelines.annotations.shapes import AnnotatedImage, Annotations, Size
from data_pipelines.config import DataConfig
from data_pipelines.sources.coco_entries import Notes

_MAX_LISTED = 100  # categories in a message: COCO has 80


@dataclass(frozen=True)
class Painter:
    """Draws label maps.

    Regions are drawn in the order of their pixels, the largest first, so that small objects stay
    visible; of equal ones the later in the file covers the earlier. Crowd regions are drawn first,
    as `ignore`.

    Attributes:
      ids: train id by category; shapes of other categories are not drawn.
      background: train id of pixels without a shape.
      ignore: train id of ignored pixels.

    Example:
      >>> painter = Painter({"car": 1, "road": 2}, background=0, ignore=255)
      >>> label = painter.draw(annotations.images[0], (360, 480), annotations.notes)
    """

    ids: Mapping[str, int]
    background: int
    ignore: int

    def draw(self, image: AnnotatedImage, size: Size, notes: Notes) -> np.ndarray:
        """Returns the label map of an image of size (h, w): `h w` uint8.

        Shapes without any pixel are added to the notes.

        Raises:
          DataError: a shape is malformed; names its location.
        """
        regions = []
        for shape in image.shapes:
            if shape.category not in self.ids:
                continue
            region = rasterize(shape, size)
            if not (area := region.area):
                text = "{count} annotations cover no pixel: of fewer than three points, or outside"
                notes.add(text, f"{shape.location} of {image.path}")
            value = self.ignore if shape.is_crowd else self.ids[shape.category]
            regions.append((not shape.is_crowd, -area, region, value))
        height, width = size
        columns = np.full(width * height, self.background, np.uint8)
        for _, _, region, value in sorted(regions, key=lambda entry: entry[:2]):
            region.fill(columns, value)
        return np.ascontiguousarray(columns.reshape(width, height).T)


def make_painter(config: DataConfig, categories: Collection[str]) -> Painter:
    """Returns the painter of a config for annotations with some categories.

    See `category_targets`. Pixels without a shape are of the class "background"; without such a
    class they are ignored.
    """
    numbers = {name: number for number, name in enumerate(config.classes)}
    targets = category_targets(config, categories)
    ids = {name: numbers.get(target, config.ignore_label) for name, target in targets.items()}
    backgrounds = [n for name, n in numbers.items() if is_background(name)]
    background = backgrounds[0] if backgrounds else config.ignore_label
    return Painter(ids, background, config.ignore_label)


def category_targets(config: DataConfig, categories: Collection[str]) -> dict[str, str]:
    """Returns the class, or "ignore", of each category that is drawn.

    It is the one in `config.category_map`, or else the class of the same name. Case, surrounding
    blanks and underscores do not count, so labelme's "_background_" is the class "background";
    "__ignore__" is ignored. Other categories are not drawn.

    Raises:
      DataError: a class or an entry of `config.category_map` names no category.
    """
    names = [repr(name) for name in categories]
    listed = ", ".join(names[:_MAX_LISTED] + ["..."] * (len(names) > _MAX_LISTED)) or "none"
    for pair in config.category_map:
        expected = f"pairs whose first is one of the categories, {listed}"
        config.require(pair[0] in categories, "category_map", expected, pair)
    classes = {_plain(name): name for name in reversed(config.classes)} | {
        name: name for name in config.classes
    }
    classes.setdefault(IGNORE, IGNORE)
    targets = dict(config.category_map)
    for category in categories:
        target = classes.get(category) or classes.get(_plain(category))
        if target and category not in targets:
            targets[category] = target
    for name in config.classes:
        expected = f"names of categories, {listed}, unless data.category_map names one for it"
        has_category = name in targets.values() or is_background(name)
        config.require(has_category, "classes", expected, name)
    return targets


def is_background(name: str) -> bool:
    """Returns whether a class is that of pixels without an annotation."""
    return _plain(name) == BACKGROUND


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip(" \t_").casefold()


def left_out(annotations: Annotations, painter: Painter) -> dict[str, int]:
    """Returns the number of shapes of each category that is not drawn."""
    counts = annotations.count_shapes()
    return {name: count for name, count in sorted(counts.items()) if name not in painter.ids}
