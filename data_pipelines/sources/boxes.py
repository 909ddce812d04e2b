"""Bounding boxes of persons, as (x, y, w, h) in pixels."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]


def clip_box(box: Sequence[float], shape: Sequence[int]) -> Box:
    """Clips a box (x, y, w, h) to its image of shape (h, w, ...), as the published recipe does.

    Sides below a pixel grow to one about the center. A box outside the image is not clipped.
    """
    x, y, width, height = box
    if is_outside(box, shape):
        return _grow_to_a_pixel(box)
    last_x, last_y = shape[1] - 1, shape[0] - 1
    left, top = min(max(0.0, x), last_x), min(max(0.0, y), last_y)
    right = min(last_x, left + max(0.0, width - 1))
    bottom = min(last_y, top + max(0.0, height - 1))
    return _grow_to_a_pixel((left, top, right - left, bottom - top))


def is_outside(box: Sequence[float], shape: Sequence[int]) -> bool:
    """Returns whether a box (x, y, w, h) does not overlap its image of shape (h, w, ...)."""
    x, y, width, height = box
    return not (x < shape[1] and y < shape[0] and x + width > 0 and y + height > 0)


def _grow_to_a_pixel(box: Sequence[float]) -> Box:
    x, y, width, height = box
    grow_x, grow_y = max(0.0, 1 - width), max(0.0, 1 - height)
    return x - grow_x / 2, y - grow_y / 2, width + grow_x, height + grow_y
