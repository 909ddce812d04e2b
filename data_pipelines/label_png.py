"""Class ids out of a label PNG.

OpenCV would turn a palette PNG into colours; Pillow gives the stored indices.
"""

from pathlib import Path

import numpy as np
from PIL import Image

# Pillow stretches grey of few bits to 0..255; these are the factors.
_STRETCHED = {"L;2": 85, "L;4": 17}


def read_label(path: Path) -> np.ndarray:
    """Reads the ids that a label file stores.

    Args:
        path: an image of 1 to 16 bits a pixel, grey or palette.

    Returns:
        `h w` uint8 or uint16 ids; `h w c` if the file holds colours.

    Raises:
        OSError, SyntaxError, ValueError: the file cannot be read; Pillow's own complaint.
    """
    with Image.open(path) as image:
        storage = image.tile[0].args if image.tile else None
        ids = np.asarray(image)
    if ids.dtype == bool:
        return ids.astype(np.uint8)
    return ids // _STRETCHED.get(storage if isinstance(storage, str) else "", 1)
