"""Boxes of persons: inside an image, and never smaller than a pixel."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]


def clip_box(box: Sequence[float], shape: Sequence[int]) -> Box:
    """Returns the part of a box inside its image, as the published recipe clips it.

    Args:
      box: x, y, w, h.
      shape: (h, w, ...) of the image.

    Returns:
      x, y, w, h; a side below a pixel grows to one about its center. A box outside the image
      stays where it is.
    """
    x, y, width, height = box
    if box_outside(box, shape):
        return at_least_a_pixel(box)
    last_x, last_y = shape[1] - 1, shape[0] - 1
    left, top = min(max(0.0, x), last_x), min(max(0.0, y), last_y)
    right = min(last_x, left + max(0.0, width - 1))
    bottom = min(last_y, top + max(0.0, height - 1))
    return at_least_a_pixel((left, top, right - left, bottom - top))


def at_least_a_pixel(box: Sequence[float]) -> Box:
    """Returns a box x, y, w, h whose sides below a pixel grow to one about its center."""
    x, y, width, height = box
    grow_x, grow_y = max(0.0, 1 - width), max(0.0, 1 - height)
    return x - grow_x / 2, y - grow_y / 2, width + grow_x, height + grow_y


def box_outside(box: Sequence[float], size: Sequence[int]) -> str:
    """Returns a description of a box that does not overlap its image; "" for others.

    Args:
      box: x, y, w, h.
      size: (h, w, ...) of the image.
    """
    x, y, width, height = box
    if x < size[1] and y < size[0] and x + width > 0 and y + height > 0:
        return ""
    return f"a box outside its image of {size[1]}x{size[0]} pixels, {[*map(float, box)]}"
