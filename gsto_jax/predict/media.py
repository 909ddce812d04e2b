"""Images and films from people's disks (needs OpenCV and Pillow, from the `train` extra)."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.image_files import DecodeOptions, ImageError, ImageHeader, decode, read_header, to_rgb

# A film that cannot be read is reported by its name here, not by FFmpeg as well.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@contextmanager
def _reading(path: Path | None) -> Iterator[None]:
    """Turns what is wrong with an image into a UserError that names its file, if it has one."""
    try:
        yield
    except (OSError, ImageError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {path}: {problem}" if path else str(problem)) from None


def read_image(path: Path, rule: DecodeOptions | None = None) -> np.ndarray:
    """Returns an image file of any format that Pillow reads as `h w 3` uint8 RGB.

    Args:
      path: of the file; of several frames the first is read.
      rule: of alpha, orientation and bit depth; None for the default one.

    Raises:
      UserError: it is missing, damaged or no image; names it.
    """
    with _reading(path):
        return decode(path.read_bytes(), rule).pixels


def load_rgb(image: np.ndarray | str | Path, rule: DecodeOptions | None = None) -> np.ndarray:
    """Returns an image, an array, of Pillow, or the path of a file, as `h w 3` uint8 RGB.

    Raises:
      UserError: see `read_image`; or an array of another shape or dtype, or with values beyond the
        bit depth of the rule.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image), rule)
    with _reading(None):
        return to_rgb(image, rule)


def read_image_header(path: Path) -> ImageHeader:
    """Returns the head of an image file: its size and orientation. Raises as `read_image`."""
    with _reading(path):
        return read_header(path)


def count_frames(path: Path) -> tuple[int, float]:
    """Returns the number of frames, by the head of the file, and frames per second.

    Raises:
      UserError: the video is damaged or none; names it.
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
