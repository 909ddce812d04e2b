"""Image files as RGB: the one reader of training, evaluation, prediction and serving.

`decode` turns a file of any format that Pillow reads, and TIFFs that OpenCV alone reads, into
`h w 3` uint8 RGB. An `ImageRule` says what becomes of transparency, EXIF orientation and values
of more than 8 bits; it is part of a run's settings. Color profiles are not applied, and of several
frames the first is read. `crop_person` cuts a person out. Needs NumPy, OpenCV and Pillow; imports
no JAX and nothing else of this package, so that workers which hold no device, and servers, can use
it.
"""

from gsto_jax.image_files.decode import (
    STRETCHED,
    Decoded,
    decode,
    decode_by_opencv,
    to_rgb,
)
from gsto_jax.image_files.head import (
    MAX_PIXELS,
    Head,
    exif_orientation,
    open_image,
    read_head,
    storage_of,
)
from gsto_jax.image_files.person_crop import box_to_frame, crop_person, frame_to_crop
from gsto_jax.image_files.rule import ALPHAS, ORIENTATIONS, ImageError, ImageRule

__all__ = [
    "ALPHAS",
    "MAX_PIXELS",
    "ORIENTATIONS",
    "STRETCHED",
    "Decoded",
    "Head",
    "ImageError",
    "ImageRule",
    "box_to_frame",
    "crop_person",
    "decode",
    "decode_by_opencv",
    "exif_orientation",
    "frame_to_crop",
    "open_image",
    "read_head",
    "storage_of",
    "to_rgb",
]
