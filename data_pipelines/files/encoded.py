"""Encoded image files that decode crops on demand."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_pipelines.files.images import naming_errors, read_image_header
from gsto_jax.image_files import DecodeOptions, ImageHeader, decode_crop


@dataclass(frozen=True)
class EncodedImage:
    """An image file in memory.

    Attributes:
      data: content of the file.
      name: name of the file, for messages.
      options: how it is decoded.
    """

    data: bytes
    name: str
    options: DecodeOptions

    @cached_property
    def header(self) -> ImageHeader:
        """Header of the file. Raises DataError."""
        return read_image_header(self.data, self.name)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the decoded image. Raises DataError."""
        return self.header.oriented_size(self.options)

    def crop(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
        """Decodes a box (left, top, right, bottom), resized to `size` (h, w). Raises DataError."""
        with naming_errors(self.name):
            return decode_crop(self.data, self.header, box, size, self.options)
