"""Image files as RGB: the one reader of training, evaluation, prediction and serving.

`decode` turns a file of any format that Pillow reads, and TIFFs that OpenCV alone reads, into
`h w 3` uint8 RGB. An `DecodeOptions` says what becomes of transparency, EXIF orientation and values
of more than 8 bits; it is part of a run's settings. Color profiles are not applied, and of several
frames the first is read. `crop_person` cuts a person out. Needs NumPy, OpenCV and Pillow; imports
no JAX and nothing else of this package, so that workers which hold no device, and servers, can use
it.
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
