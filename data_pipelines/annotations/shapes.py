"""Annotated images as read from any JSON format: shapes with a category each."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from data_pipelines.sources.coco_entries import Notes

Size = tuple[int, int]
Kind = Literal["polygons", "rle", "disk", "bitmap"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A region of an image.

    Attributes:
      category: name of its category.
      kind: how `geometry` describes the region: "polygons" (lists x, y, x, y, ... whose union it
        is), "rle" (COCO's dict of size and counts), "disk" (x and y of the center, radius) or
        "bitmap" (x and y of the first pixel, then a PNG in base64).
      geometry: see `kind`; coordinates in pixels, (0, 0) is the corner of the first pixel.
      location: file and entry, for messages.
      is_crowd: whether the region holds an unknown number of objects, and is ignored.
    """

    category: str
    kind: Kind
    geometry: Any
    location: str
    is_crowd: bool = False


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its shapes, in the order of the file.

    Attributes:
      path: path of the image as written in the file, with "/".
      size: (h, w) as written in the file; 0: not written.
      shapes: its shapes; empty: annotated as without any.
      location: file and entry, for messages.
      stem: path without suffix of another name of the image, that of its labelme file; "": none.
    """

    path: str
    size: Size
    shapes: tuple[Shape, ...]
    location: str
    stem: str = ""


@dataclass(frozen=True)
class Annotations:
    """The images and categories of a COCO file, or of a folder of labelme files.

    Attributes:
      name: path of the file or folder.
      categories: names of all categories: of COCO in the order of the ids, of labelme sorted.
      images: the annotated images.
      checksum: changes with the content of the files.
      notes: harmless findings; drawing adds to them.
    """

    name: str
    categories: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    checksum: int
    notes: Notes = field(compare=False)

    def count_shapes(self) -> Counter[str]:
        """Returns the number of shapes by category."""
        return Counter(shape.category for image in self.images for shape in image.shapes)
