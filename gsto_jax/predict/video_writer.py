"""Writes MP4 videos with the most widely supported codec of this OpenCV."""

import errno
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.predict.media import opencv_name

CODECS = {
    "avc1": "H.264",
    "vp09": "VP9 (this OpenCV has no H.264 encoder): plays in browsers, not in every player",
    "mp4v": "MPEG-4 (this OpenCV has no H.264 or VP9 encoder): does not play in browsers;"
    " convert it with ffmpeg -i OLD.mp4 NEW.mp4",
}
"""Codecs of MP4 files, most widely supported first, with a description."""


class VideoWriter:
    """Writes an MP4 video; a context manager.

    Args:
      path: path of the video.
      rate: frames per second.

    Attributes:
      codec: key of `CODECS`; empty before the first frame.

    Raises:
      OSError: the video cannot be written, or is incomplete at the end.
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
                self._check_frame_count()

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame `h w 3` uint8 RGB."""
        # Chroma subsampling needs even sides.
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if self._writer is None:
            self._writer = self._open((frame.shape[1], frame.shape[0]))
        self._count += 1
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def _check_frame_count(self) -> None:
        # OpenCV does not report a full disk; a truncated video has no frames.
        with opencv_name(self.path) as name:
            reader = cv2.VideoCapture(name)
            count = round(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
            reader.release()
        if count < self._count:
            problem = f"{count} of {self._count} frames were written; the disk may be full"
            raise OSError(errno.EIO, problem)

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        # `image_files` has silenced OpenCV, which reports missing encoders.
        with opencv_name(self.path) as name:
            for codec in CODECS:
                fourcc = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, fourcc, self.rate, size)
                if writer.isOpened():
                    self.codec = codec
                    return writer
                writer.release()
        raise OSError(errno.EIO, f"cannot write a video of {size[0]}x{size[1]}")
