"""Writes videos that browsers play, where OpenCV has an encoder for that (needs OpenCV)."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.predict.media import opencv_name

CODECS = {
    "avc1": "H.264",
    "vp09": "VP9 (this OpenCV encodes no H.264): browsers play it, some other players do not",
    "mp4v": "MPEG-4 (this OpenCV encodes neither H.264 nor VP9): browsers do not play it;"
    " convert it by ffmpeg -i OLD.mp4 NEW.mp4",
}
"""Codecs in MP4 files, the most widely played first, and what to say of them."""


class VideoWriter:
    """Writes an MP4 video; leaving the context finishes it.

    Args:
      path: of the video.
      rate: frames a second.

    Attributes:
      codec: of `CODECS`; empty before the first frame.

    Raises:
      OSError: the video cannot be written, or frames are missing at the end.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.codec = path, rate, ""
        self._writer: cv2.VideoWriter | None = None
        self._count = 0

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
            if failure is None:
                self._check()

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame `h w 3` uint8 RGB."""
        # Half the resolution in color: sides must be even.
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if self._writer is None:
            self._writer = self._open((frame.shape[1], frame.shape[0]))
        self._count += 1
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def _check(self) -> None:
        # OpenCV says nothing of a disk that is full: a video whose end is missing has no frames.
        with opencv_name(self.path) as name:
            reader = cv2.VideoCapture(name)
            count = round(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
            reader.release()
        if count < self._count:
            problem = f"{count} of {self._count} frames were written: is the disk full?"
            raise OSError(errno.EIO, problem)

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        with _silent(), opencv_name(self.path) as name:
            for codec in CODECS:
                code = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, code, self.rate, size)
                if writer.isOpened():
                    self.codec = codec
                    return writer
                writer.release()
        raise OSError(errno.EIO, f"cannot write a video of {size[0]}x{size[1]}")


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps OpenCV from reporting encoders that it lacks: others are tried."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
