"""Tiles of images with captions (needs OpenCV, from the `train` extra)."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.files import atomic_write

Color = tuple[int, int, int]

BACKGROUND: Color = (255, 255, 255)
LINE_HEIGHT = 22
"""Height of a line of text, in pixels."""
GAP = 4
"""Gap between adjacent tiles, in pixels."""
TEXT: Color = (30, 30, 30)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Returns an image `h w c` uint8 as it is drawn, `h w 3`.

    These are the first three channels, or of one or two channels the first as gray.
    """
    if image.shape[2] < 3:
        return np.repeat(image[..., :1], 3, axis=2)
    return image if image.shape[2] == 3 else np.ascontiguousarray(image[..., :3])


def caption(text: str, width: int) -> np.ndarray:
    """Renders a line of text as `LINE_HEIGHT width 3` uint8."""
    line = np.full((LINE_HEIGHT, width, 3), BACKGROUND, np.uint8)
    cv2.putText(line, text, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, TEXT, 1, cv2.LINE_AA)
    return line


def with_caption(text: str, tile: np.ndarray) -> np.ndarray:
    """Stacks a caption on top of a tile."""
    return np.vstack([caption(text, tile.shape[1]), tile])


def tile_row(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Joins tiles of equal height side by side, with gaps."""
    gap = np.full((tiles[0].shape[0], GAP, 3), BACKGROUND, np.uint8)
    return np.hstack([block for tile in tiles for block in (tile, gap)][:-1])


def tile_grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Stacks rows of equally sized tiles; short rows are filled with background."""
    columns = max(map(len, rows))
    empty = np.full_like(rows[0][0], BACKGROUND)
    return np.vstack([tile_row([*tiles, *[empty] * (columns - len(tiles))]) for tiles in rows])


def encode_image(image: np.ndarray, suffix: str, settings: Sequence[int] = ()) -> bytes:
    """Encodes `h w 3` RGB or `h w` uint8 in the format of a suffix such as ".png"."""
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, stored, settings)[1].tobytes()


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes `h w 3` RGB or `h w` uint8 atomically, in the format of the path's suffix.

    Raises:
      OSError: the file cannot be written.
    """
    # cv2.imwrite ignores a full disk, leaves truncated files, and fails on non-UTF-8 names.
    try:
        data = encode_image(image, path.suffix)
    except cv2.error as error:
        raise OSError(f"cannot write {path}: {error.err or error}") from None
    with atomic_write(path) as temporary_path:
        temporary_path.write_bytes(data)
