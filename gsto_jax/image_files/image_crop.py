"""Crops of images, resized with antialiasing; JPEGs are decoded at a reduced size."""

import cv2
import numpy as np
from PIL import Image

from gsto_jax.image_files.decode import decode
from gsto_jax.image_files.deep import decode_by_opencv
from gsto_jax.image_files.header import ImageHeader
from gsto_jax.image_files.options import DecodeOptions

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""
_JPEG = b"\xff\xd8"
_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""Flags of OpenCV that decode a JPEG at a fraction of its size."""


def center_box(size: tuple[int, int], crop: tuple[int, int], fraction: float) -> Box:
    """Returns the largest box of a crop's aspect ratio at the center of an image, times a fraction.

    Args:
      size: (h, w) of the image.
      crop: (h, w) of the crop.
      fraction: size of the box relative to the largest one.
    """
    scale = fraction * min(size[0] / crop[0], size[1] / crop[1])
    height, width = scale * crop[0], scale * crop[1]
    left, top = (size[1] - width) / 2, (size[0] - height) / 2
    return left, top, left + width, top + height


def decode_crop(
    data: bytes, header: ImageHeader, box: Box, size: tuple[int, int], options: DecodeOptions
) -> np.ndarray:
    """Decodes a box of an image file, resized to `size` (h, w), as `h w 3` uint8 RGB.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that has as many pixels as the result.

    Args:
      data: content of the file.
      header: its header.
      box: in pixels of the oriented image.
      size: (h, w) of the result.
      options: decode options, for RGB.

    Raises:
      ImageError: see `decode`.
    """
    upright = header.orientation == 1 or options.orientation == "stored"
    if not (data.startswith(_JPEG) and header.decoder == "opencv" and upright):
        return crop_pixels(decode(data, options).pixels, box, size)
    scale = min((box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1])
    reduction = next(factor for factor in (8, 4, 2, 1) if scale >= factor or factor == 1)
    bgr = decode_by_opencv(data, _FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:  # Pillow may read what OpenCV rejects, and raises with a reason
        return crop_pixels(decode(data, options).pixels, box, size)
    y, x = bgr.shape[0] / header.size[0], bgr.shape[1] / header.size[1]
    left, top, right, bottom = box[0] * x, box[1] * y, box[2] * x, box[3] * y
    # The filter reaches beyond the box by as many pixels as make one of the result.
    reach_x, reach_y = ((right - left) / size[1], (bottom - top) / size[0])
    start_x, start_y = max(int(left - reach_x) - 1, 0), max(int(top - reach_y) - 1, 0)
    end_x, end_y = int(right + reach_x) + 2, int(bottom + reach_y) + 2
    part = cv2.cvtColor(bgr[start_y:end_y, start_x:end_x], cv2.COLOR_BGR2RGB)
    shifted = (left - start_x, top - start_y, right - start_x, bottom - start_y)
    return crop_pixels(part, shifted, size)


def crop_pixels(pixels: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Resizes a box of an image `h w 3` uint8 to `size` (h, w), bilinearly with antialiasing."""
    height, width = pixels.shape[:2]
    # Rounding may put an edge a hair outside of the image, which Pillow refuses.
    inside = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    image = Image.fromarray(pixels)
    return np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, inside))
