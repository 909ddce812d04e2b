"""Decodes image files to RGB, for training, evaluation, prediction and serving.

`decode` reads every format that Pillow supports, and TIFFs that only OpenCV supports, as `h w 3`
uint8 RGB. `DecodeOptions` controls alpha, EXIF orientation and bit depth, and is part of a run's
config. Color profiles are ignored, and only the first frame is read. `crop_person` crops a person.
Imports NumPy, OpenCV and Pillow, but no JAX, so that data workers and servers can use it.
"""

from gsto_jax.image_files.decode import (
    GRAY_STRETCH_FACTORS,
    Decoded,
    decode,
    decode_by_opencv,
    to_rgb,
)
from gsto_jax.image_files.header import (
    MAX_PIXELS,
    ImageHeader,
    exif_orientation,
    open_image,
    pixel_layout,
    read_header,
)
from gsto_jax.image_files.options import ALPHAS, ORIENTATIONS, DecodeOptions, ImageError
from gsto_jax.image_files.person_crop import box_to_frame, crop_person, frame_to_crop

__all__ = [
    "ALPHAS",
    "GRAY_STRETCH_FACTORS",
    "MAX_PIXELS",
    "ORIENTATIONS",
    "DecodeOptions",
    "Decoded",
    "ImageError",
    "ImageHeader",
    "box_to_frame",
    "crop_person",
    "decode",
    "decode_by_opencv",
    "exif_orientation",
    "frame_to_crop",
    "open_image",
    "pixel_layout",
    "read_header",
    "to_rgb",
]
