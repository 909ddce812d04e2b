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
"""Between tiles of a row, in pixels."""
TEXT: Color = (30, 30, 30)


def write_text(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    """Writes a line of text onto a canvas, its baseline at `y`."""
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, TEXT, 1, cv2.LINE_AA)


def caption(text: str, width: int) -> np.ndarray:
    """A strip of text, `LINE_HEIGHT width 3` uint8."""
    strip = np.full((LINE_HEIGHT, width, 3), BACKGROUND, np.uint8)
    write_text(strip, text, 4, 15)
    return strip


def with_caption(text: str, tile: np.ndarray) -> np.ndarray:
    """Returns a tile below its caption."""
    return np.vstack([caption(text, tile.shape[1]), tile])


def row(tiles: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Tiles of one height side by side."""
    between = np.full((tiles[0].shape[0], gap, 3), BACKGROUND, np.uint8)
    return np.hstack([part for tile in tiles for part in (tile, between)][:-1])


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of tiles of one size; short rows are filled with paper."""
    columns = max(map(len, rows))
    empty = np.full_like(rows[0][0], BACKGROUND)
    return np.vstack([row([*tiles, *[empty] * (columns - len(tiles))]) for tiles in rows])


def encode_image(image: np.ndarray, suffix: str, settings: Sequence[int] = ()) -> bytes:
    """Returns `h w 3` RGB or `h w` uint8 as the content of a file of a suffix such as ".png"."""
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, stored, settings)[1].tobytes()


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes `h w 3` RGB or `h w` uint8, as the suffix says, whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Encoded first: OpenCV says nothing of a disk that is full, and leaves what it has written.
    # Its own writer takes no name that is not UTF-8 either.
    try:
        data = encode_image(image, path.suffix)
    except cv2.error as error:
        raise OSError(f"cannot write {path}: {error.err or error}") from None
    with atomic_write(path) as part:
        part.write_bytes(data)
