"""Image and label folders that are paired by name or by a list."""

import os
import random

import cv2
import numpy as np

LABEL = np.array([[0, 1, 2, 2, 1, 255]] * 4, np.uint8)


def write(path, array):
    """Writes an image file; the case of its suffix is arbitrary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), array)[1].tobytes())


def add(root, image, label=None):
    """Adds an image of a unique color, and its label if named."""
    value = random.Random(os.fsencode(image)).randrange(20, 250)
    write(root / "img/val" / image, np.full((4, 6, 3), value, np.uint8))
    if label:
        write(root / "ids/val" / label, LABEL)


def names(source):
    return [source.name(n) for n in range(len(source))]
