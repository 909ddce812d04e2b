"""Pictures and films from people's disks (needs OpenCV and Pillow, from the `train` extra)."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gsto_jax.errors import UserError

# A film that cannot be read is reported by its name here, not by FFmpeg as well.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

IMAGES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
_ORIENTATION = 0x0112  # of Exif


def read_image(path: Path) -> np.ndarray:
    """Reads an image file as people see it: turned as it says, transparent parts on white.

    Args:
      path: of any format that Pillow reads; of several frames the first.

    Returns:
      `h w 3` uint8 RGB.

    Raises:
      UserError: it is missing, damaged or no image; names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Turned before anything is converted: that may drop what says how.
            return _pixels(ImageOps.exif_transpose(image))
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise _unreadable(path, error) from None


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture, turned as it says, from the head of its file.

    Raises:
      UserError: it is missing, damaged or no image; names it.
    """
    try:
        with Image.open(path) as image:
            # Pillow would read all of a PNG to look for what follows its pixels.
            known = image.format != "PNG" or "exif" in image.info
            turned = known and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise _unreadable(path, error) from None


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Makes a picture of an array: grey becomes RGB, transparent parts white, 16 bits 8.

    Args:
      image: `h w`, `h w 1`, `h w 3` or `h w 4`, uint8 or uint16, or bool.

    Returns:
      `h w 3` uint8 RGB.

    Raises:
      UserError: another shape or dtype.
    """
    image = np.asarray(image)
    shape, dtype = image.shape, image.dtype
    channels = shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise UserError(f"a picture has the shape h w, h w 3 or h w 4, not {shape}")
    if dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    elif dtype.kind == "b":
        image = image.astype(np.uint8) * 255
    elif dtype != np.uint8:
        raise UserError(f"a picture holds uint8 or uint16, not {dtype}: scale it to 0..255 first")
    image = image.reshape(*shape[:2], channels)
    if channels == 1:
        return np.repeat(image, 3, axis=2)
    if channels == 4:
        opaque = image[..., 3:].astype(np.float32) / 255
        image = (image[..., :3] * opaque + 255 * (1 - opaque) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(image)


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return UserError(f"cannot read {path}: it has more than {most} million pixels")
    if isinstance(error, UnidentifiedImageError) or not str(error).strip():
        reason = ""
    else:
        reason = f" ({str(error).strip().splitlines()[0]})"
    return UserError(f"cannot read {path}: it is damaged or no image{reason}")


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow would cut these off at 255.
        values = np.asarray(image).astype(np.float64)
        most = values.max()
        if not (values.min() >= 0 and most <= 65535):
            raise ValueError(f"values of {values.min():g} to {most:g}, not 0 to 65535")
        if image.mode == "F" and most <= 1:
            return to_rgb((65535 * values).astype(np.uint16))
        if not image.mode.startswith("I;16") and most <= 255:
            return to_rgb(values.astype(np.uint8))  # 8 bits in a wider format
        return to_rgb(values.astype(np.uint16))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return to_rgb(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


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


def _opened(path: Path) -> "cv2.VideoCapture":
    film = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not path.is_file() or not film.isOpened():
        raise UserError(f"cannot read {path}: it is damaged or no video")
    return film
