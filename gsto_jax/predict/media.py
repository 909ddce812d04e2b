"""Pictures and films from people's disks (needs OpenCV and Pillow, from the `train` extra)."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.image_files import Head, ImageError, ImageRule, decode, read_head
from gsto_jax.image_files import to_rgb as array_to_rgb

# A film that cannot be read is reported by its name here, not by FFmpeg as well.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def read_image(path: Path, rule: ImageRule | None = None) -> np.ndarray:
    """Reads an image file.

    Args:
      path: of any format that Pillow reads; of several frames the first.
      rule: of alpha, orientation and bit depth; None for the default one.

    Returns:
      `h w 3` uint8 RGB.

    Raises:
      UserError: it is missing, damaged or no image; names it.
    """
    try:
        return decode(path.read_bytes(), rule).pixels
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ImageError as error:
        raise UserError(f"cannot read {path}: {error}") from None


def load_rgb(image: np.ndarray | str | Path, rule: ImageRule | None = None) -> np.ndarray:
    """Returns an image, an array, of Pillow, or the path of a file, as `h w 3` uint8 RGB.

    Raises:
      UserError: see `read_image` and `to_rgb`.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image), rule)
    return to_rgb(image, rule)


def image_head(path: Path) -> Head:
    """Reads the head of an image file: its size and orientation.

    Raises:
      UserError: it is missing, damaged or no image; names it.
    """
    try:
        return read_head(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ImageError as error:
        raise UserError(f"cannot read {path}: {error}") from None


def to_rgb(image: np.ndarray, rule: ImageRule | None = None) -> np.ndarray:
    """Converts an array to RGB as `read_image` does a file; see `gsto_jax.image_files.to_rgb`.

    Raises:
      UserError: another shape or dtype, or values beyond the rule's bit depth.
    """
    try:
        return array_to_rgb(image, rule)
    except ImageError as error:
        raise UserError(str(error)) from None


def count_frames(path: Path) -> tuple[int, float]:
    """Number of frames, as the file's head has it, and frames a second.

    Raises:
      UserError: it is damaged or no video; names it.
    """
    film = _opened(path)
    count, rate = film.get(cv2.CAP_PROP_FRAME_COUNT), film.get(cv2.CAP_PROP_FPS)
    film.release()
    return max(0, int(count)), rate if 0 < rate < 1000 else 25.0


def video_frames(path: Path) -> Iterator[np.ndarray]:
    """Yields the frames of a video, `h w 3` uint8 RGB, turned as it says.

    Raises:
      UserError: it is damaged or no video; names it.
    """
    film = _opened(path)
    try:
        while True:
            read, frame = film.read()
            if not read:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        film.release()


@contextmanager
def opencv_name(path: Path) -> Iterator[str]:
    """Yields a name under which OpenCV opens a file for reading or writing.

    OpenCV crashes on names that are not UTF-8, so such a file is opened through a link.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"file{path.suffix}"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)


def _opened(path: Path) -> "cv2.VideoCapture":
    with opencv_name(path) as name:
        film = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    if not path.is_file() or not film.isOpened():
        raise UserError(f"cannot read {path}: it is damaged or no video")
    return film
