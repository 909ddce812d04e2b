"""Tiles of pictures with captions (needs OpenCV, from the `train` extra)."""

import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.files import named

Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
STRIP = 22
"""Height of a line of text, in pixels."""
GAP = 4
"""Between tiles of a row, in pixels."""
TEXT: Color = (30, 30, 30)


def write_text(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    """Writes a line of text onto a canvas, its baseline at `y`."""
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, TEXT, 1, cv2.LINE_AA)


def caption(text: str, width: int) -> np.ndarray:
    """A strip of text, `STRIP width 3` uint8."""
    strip = np.full((STRIP, width, 3), PAPER, np.uint8)
    write_text(strip, text, 4, 15)
    return strip


def row(tiles: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Tiles of one height side by side."""
    between = np.full((tiles[0].shape[0], gap, 3), PAPER, np.uint8)
    return np.hstack([part for tile in tiles for part in (tile, between)][:-1])


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of tiles of one size; short rows are filled with paper."""
    columns = max(map(len, rows))
    empty = np.full_like(rows[0][0], PAPER)
    return np.vstack([row([*tiles, *[empty] * (columns - len(tiles))]) for tiles in rows])


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes `h w 3` RGB or `h w` uint8, as the suffix says, whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Encoded first: OpenCV says nothing of a disk that is full, and leaves what it has written.
    # Its own writer takes no name that is not UTF-8 either.
    try:
        data = cv2.imencode(path.suffix, stored)[1].tobytes()
    except cv2.error as error:
        raise OSError(f"cannot write {path}: {error.err or error}") from None
    part = path.with_name(f".{threading.get_ident()}.part")
    try:
        with named(path):
            part.write_bytes(data)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
