"""Index of the image sizes of a prepared dataset, so that no record is read to know its size.

`sizes-SPLIT.json` holds the orientation of the sizes, see `data.orientation`, and (h, w) of each
record in order.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files.images import read_image_header
from data_pipelines.files.json import read_json
from data_pipelines.files.retry import read_bytes
from data_pipelines.files.tiles import Tiles
from gsto_jax.image_files import MAX_PIXELS, DecodeOptions

Size = tuple[int, int]


def index_path(folder: Path, split: str) -> Path:
    """Returns the path of the index of a stored split."""
    return folder / f"sizes-{split}.json"


def stored_size(image: bytes, name: str, options: DecodeOptions) -> Size:
    """Returns (h, w) of a stored image from its header. Raises DataError."""
    if Tiles.are_in(image):
        height, width = Tiles(image, name).shape[:2]
        return height, width
    return read_image_header(image, name).oriented_size(options)


def format_index(sizes: Sequence[Size], options: DecodeOptions) -> str:
    """Returns the text of an index."""
    return json.dumps({"orientation": options.orientation, "sizes": sizes}, separators=(",", ":"))


def read_index(paths: Sequence[Path], count: int, options: DecodeOptions) -> tuple[Size, ...]:
    """Reads the indices of splits that are joined.

    Args:
      paths: paths of the indices.
      count: number of records in all splits.
      options: how images are decoded.

    Returns:
      (h, w) of each record; empty if an index is missing or has another orientation.

    Raises:
      DataError: an index is damaged.
    """
    if not all(path.is_file() for path in paths):
        return ()
    sizes: list[Size] = []
    for path in paths:
        index = read_json(read_bytes(path), path)
        try:
            if index["orientation"] != options.orientation:
                return ()
            sizes += [_checked(height, width) for height, width in index["sizes"]]
        except (LookupError, TypeError, ValueError) as error:
            raise _damaged(path, str(error)) from None
    if len(sizes) != count:
        raise _damaged(paths[-1], f"it has {len(sizes)} sizes of {count} records")
    return tuple(sizes)


def _checked(height: object, width: object) -> Size:
    if type(height) is not int or type(width) is not int:
        raise ValueError(f"sizes must be integers; got {height!r}, {width!r}")
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"there can be no image of {width}x{height} pixels")
    return height, width


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is damaged ({reason}). Remove it to read sizes from the images.")
