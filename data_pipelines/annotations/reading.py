"""Reads annotations of either format."""

from pathlib import Path

from data_pipelines.annotations.coco import read_coco
from data_pipelines.annotations.labelme import read_labelme
from data_pipelines.annotations.shapes import Annotations
from data_pipelines.errors import DataError


def read_annotations(path: Path) -> Annotations:
    """Reads a COCO file, or a folder of labelme files.

    No image is opened, and no shape is drawn: `Painter.draw` and `rasterize` do.

    Raises:
      DataError: there is nothing at the path, or it is of neither format.

    Example:
      >>> annotations = read_annotations(Path("data/annotations/train.json"))
      >>> annotations.categories
      ('person', 'car')
      >>> annotations.count_shapes()
      Counter({'car': 812, 'person': 95})
    """
    if path.is_dir():
        return read_labelme(path)
    if not path.exists():
        raise DataError(
            f"There is no file or folder {path}. Check root, annotations and the split."
        )
    return read_coco(path)
