"""Reads images and videos, and resizes images (needs OpenCV and Pillow, from the `train` extra)."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from gsto_jax.errors import UserError
from gsto_jax.image_files import (
    DecodeOptions,
    ImageError,
    ImageHeader,
    decode,
    read_header,
    to_pixels,
)
from gsto_jax.storage import error_reason, has_scheme, read_file, to_path
from gsto_jax.types import Size

# An unreadable video raises an error with its name; FFmpeg would print one as well.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@contextmanager
def as_user_error(path: Path | None = None) -> Iterator[None]:
    """Converts read errors into a UserError that names the file, if there is one."""
    try:
        yield
    except (OSError, ImageError) as error:
        problem = error_reason(error) if isinstance(error, OSError) else error
        raise UserError(f"cannot read {path}: {problem}" if path else str(problem)) from None


def read_image(path: Path, options: DecodeOptions | None = None) -> np.ndarray:
    """Reads an image file as `h w c` uint8, by default RGB.

    Args:
      path: path of the file; of an animation, the first frame is read.
      options: decode options; None for the defaults.

    Raises:
      UserError: the file is missing, damaged or not an image.
    """
    with as_user_error(path):
        return decode(read_file(path), options).pixels


def load_pixels(image: np.ndarray | str | Path, options: DecodeOptions | None = None) -> np.ndarray:
    """Converts an array, Pillow image or image file to `h w c` uint8, as `to_pixels`.

    Raises:
      UserError: as `read_image`; or an unsupported shape or dtype, or values beyond
        `options.bit_depth`.
    """
    if isinstance(image, str | os.PathLike):
        path = to_path(image, "image") if has_scheme(image) else Path(image)
        return read_image(path, options)
    with as_user_error():
        return to_pixels(image, options)


def read_image_header(path: Path) -> ImageHeader:
    """Reads the header of an image file; raises UserError as `read_image`."""
    with as_user_error(path):
        return read_header(path)


def count_frames(path: Path) -> tuple[int, float]:
    """Returns the number of frames according to the file header, and frames per second.

    Raises:
      UserError: the file is damaged or not a video.
    """
    video = _open_video(path)
    count, rate = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
    video.release()
    return max(0, int(count)), rate if 0 < rate < 1000 else 25.0


def video_frames(path: Path) -> Iterator[np.ndarray]:
    """Yields the frames of a video, `h w 3` uint8 RGB, with its rotation applied.

    Raises:
      UserError: the file is damaged or not a video.
    """
    video = _open_video(path)
    try:
        while True:
            is_read, frame = video.read()
            if not is_read:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        video.release()


@contextmanager
def opencv_name(path: Path) -> Iterator[str]:
    """Yields a file name that OpenCV can open: a symlink for names that are not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # OpenCV crashes on such names
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"file{path.suffix}"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)


def _open_video(path: Path) -> "cv2.VideoCapture":
    with opencv_name(path) as name:
        video = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    if not path.is_file() or not video.isOpened():
        raise UserError(f"cannot read {path}: it is damaged or not a video")
    return video


def downscale(image: np.ndarray, size: Size) -> Float[np.ndarray, "h w c"]:
    """Downscales an image to float32, since exported programs do not round to uint8."""
    image = image.astype(np.float32)
    if image.shape[:2] == size:
        return image
    return resize_image(image, size, cv2.INTER_AREA)


def resize_image(image: np.ndarray, size: Size, interpolation: int) -> np.ndarray:
    """Resizes `h w c` to (h, w) = `size`, by four channels, the most that OpenCV averages."""
    blocks = [image[..., start : start + 4] for start in range(0, image.shape[2], 4)]
    # OpenCV drops the axis of a single channel.
    resized = [
        cv2.resize(block, size[::-1], interpolation=interpolation).reshape(*size, -1)
        for block in blocks
    ]
    return resized[0] if len(resized) == 1 else np.concatenate(resized, axis=2)
