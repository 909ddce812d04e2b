"""Checks images: sizes that disagree with labels, and images that look wrong."""

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files.images import format_size
from data_pipelines.sources.stats import Issue
from gsto_jax.image_files import Decoded, DecodeOptions, ImageHeader

_MIN_CONTRAST = 16
"""Minimum difference between the brightest and the darkest value of a normal image."""
_MIN_UNUSED_BITS = 2
"""Unused upper bits of a file of more than 8 bits that are worth a warning."""
_ORIENTATIONS = {
    2: "flipped left to right",
    3: "rotated by 180 degrees",
    4: "flipped upside down",
    5: "transposed",
    6: "rotated clockwise by 90 degrees",
    7: "transposed and rotated by 180 degrees",
    8: "rotated counterclockwise by 90 degrees",
}

Size = tuple[int, int]


def check_label_size(
    image_name: str,
    decoded: Decoded,
    options: DecodeOptions,
    label_name: str,
    label: np.ndarray,
    location: str = "",
) -> Issue | None:
    """Returns an issue if a label `h w` differs in size from its image.

    `location` says where both are, such as " in record 3".
    """
    size, label_size = decoded.pixels.shape[:2], (label.shape[0], label.shape[1])
    if size == label_size:
        return None
    remedy = _orientation_remedy(decoded.header, options, label_size) or (
        "one of them is rotated"
        if size == label_size[::-1]
        else "resize the label to the size of its image"
    )
    sizes = (
        f"{image_name} is {format_size(decoded.pixels)} but {label_name} is {format_size(label)}"
    )
    return Issue(f"{label_name}{location}", "a label of another size than its image", sizes, remedy)


def check_annotated_size(
    name: str, header: ImageHeader, options: DecodeOptions, annotated: Size
) -> None:
    """Raises DataError if an image differs from the (h, w) in its annotations; 0: not given."""
    size = header.oriented_size(options)
    if 0 in annotated or size == annotated:
        return
    remedy = _orientation_remedy(header, options, annotated)
    if not remedy:
        reason = "the image is rotated" if size == annotated[::-1] else "it is another image"
        remedy = f"{reason}; replace it"
    raise DataError(
        f"{name} is {size[1]}x{size[0]}, but its annotations are of an image of"
        f" {annotated[1]}x{annotated[0]}: {remedy}."
    )


def _orientation_remedy(header: ImageHeader, options: DecodeOptions, expected: Size) -> str:
    """Names the option that would give an image the expected size; "" if there is none."""
    orientation = header.orientation
    if orientation < 5 or header.oriented_size(options)[::-1] != expected:
        return ""
    other = "stored" if options.orientation == "upright" else "upright"
    return (
        f"its EXIF orientation {orientation} ({_ORIENTATIONS[orientation]})"
        f" {_applied(options)}: with data.orientation={other} both agree"
    )


def image_warnings(name: str, decoded: Decoded, options: DecodeOptions) -> list[Issue]:
    """Returns issues of an image that is rotated by EXIF, of low range or without contrast."""
    warnings: list[Issue] = []
    orientation = decoded.header.orientation
    if orientation != 1:
        warnings.append(
            Issue(
                name,
                "an EXIF orientation",
                f"{orientation}, {_ORIENTATIONS[orientation]}",
                f"config.data.orientation is {options.orientation!r}, so it {_applied(options)}:"
                " check that the labels agree",
            )
        )
    if decoded.bits > 8 and decoded.used_bits <= decoded.bits - _MIN_UNUSED_BITS:
        warnings.append(
            Issue(
                name,
                f"values of {decoded.used_bits} bits in a file of {decoded.bits}",
                "it is read as nearly black",
                f"set data.bit_depth={max(8, decoded.used_bits)}, or to the bits of the brightest"
                " image",
            )
        )
        return warnings
    return warnings + contrast_warnings(name, decoded.pixels)


def contrast_warnings(name: str, pixels: np.ndarray) -> list[Issue]:
    """Returns an issue if an image is black or has hardly any contrast."""
    low, high = int(pixels.min()), int(pixels.max())
    if high - low >= _MIN_CONTRAST:
        return []
    if high == 0:
        return [Issue(name, "black pixels only")]
    return [Issue(name, "hardly any contrast", f"its values are {low} to {high} of 0 to 255")]


def _applied(options: DecodeOptions) -> str:
    return "is applied" if options.orientation == "upright" else "is not applied"
