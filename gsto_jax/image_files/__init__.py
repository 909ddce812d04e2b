"""Decodes image files, for training, evaluation, prediction and serving.

`decode` reads every format that Pillow supports, and TIFFs that only OpenCV or tifffile supports,
as `h w c` uint8: RGB, or another number of channels. `DecodeOptions` controls channels, alpha, EXIF
orientation and range of values, and is part of a run's config. Color profiles are ignored, and only
the first frame is read. `crop_person` crops a person, `decode_crop` a box of a file. Imports NumPy,
OpenCV, Pillow and tifffile, kornia-rs if it is installed, and rasterio if it is and tifffile lacks
a codec, but no JAX, so that data workers and servers can use it.
"""

from gsto_jax.image_files.decode import Decoded, decode, to_pixels
from gsto_jax.image_files.deep import GRAY_STRETCH_FACTORS, decode_by_opencv
from gsto_jax.image_files.header import (
    MAX_PIXELS,
    MAX_TILED_PIXELS,
    ImageHeader,
    TiffTag,
    exif_orientation,
    open_image,
    pixel_layout,
    read_header,
)
from gsto_jax.image_files.image_crop import center_box, crop_pixels, decode_crop
from gsto_jax.image_files.options import (
    ALPHAS,
    MAX_CHANNELS,
    ORIENTATIONS,
    DecodeOptions,
    ImageError,
)
from gsto_jax.image_files.person_crop import box_to_frame, crop_person, frame_to_crop
from gsto_jax.image_files.png import decode_png

__all__ = [
    "ALPHAS",
    "GRAY_STRETCH_FACTORS",
    "MAX_CHANNELS",
    "MAX_PIXELS",
    "MAX_TILED_PIXELS",
    "ORIENTATIONS",
    "DecodeOptions",
    "Decoded",
    "ImageError",
    "ImageHeader",
    "TiffTag",
    "box_to_frame",
    "center_box",
    "crop_person",
    "crop_pixels",
    "decode",
    "decode_by_opencv",
    "decode_crop",
    "decode_png",
    "exif_orientation",
    "frame_to_crop",
    "open_image",
    "pixel_layout",
    "read_header",
    "to_pixels",
]
