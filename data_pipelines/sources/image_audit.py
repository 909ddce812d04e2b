"""Findings about images: sizes that disagree, and images that are probably not as meant."""

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.sources.audit import Issue
from gsto_jax.image_files import Decoded, DecodeOptions

_MIN_RANGE = 16
"""Gray levels between the darkest and the brightest value of an image that shows something."""
_SPARE_BITS = 2
"""Unused upper bits from which on a file of more than 8 bits is said to be of low range."""
_ORIENTATIONS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "mirrored upside down",
    5: "mirrored and turned left",
    6: "turned right",
    7: "mirrored and turned right",
    8: "turned left",
}

Size = tuple[int, int]


def size_problem(
    image_name: str,
    decoded: Decoded,
    rule: DecodeOptions,
    label_name: str,
    label_size: Size,
    place: str = "",
) -> Issue | None:
    """Finds a label whose size differs from its image's.

    Args:
        image_name: path of the image.
        decoded: the image.
        rule: by which it was read.
        label_name: path of the label.
        label_size: height and width of the label, as read.
        place: where the two are, such as " in record 3".
    """
    size = decoded.pixels.shape[:2]
    if size == label_size:
        return None
    remedy = agreeing_rule(decoded, rule, label_size)
    if not remedy:
        turned = size == label_size[::-1]
        remedy = "one of them is turned" if turned else "a label needs its image's size"
    sizes = f"{image_name} is {_text(size)} but {label_name} is {_text(label_size)}"
    return Issue(f"{label_name}{place}", "another size than its image", sizes, remedy)


def agreeing_rule(decoded: Decoded, rule: DecodeOptions, expected: Size) -> str:
    """Names the setting by which an image would have the expected size; "" if none does."""
    orientation = decoded.header.orientation
    if orientation < 5 or decoded.pixels.shape[1::-1] != expected:
        return ""
    other = "stored" if rule.orientation == "upright" else "upright"
    applied = "is applied" if rule.orientation == "upright" else "is not applied"
    return (
        f"its EXIF orientation {orientation} ({_ORIENTATIONS[orientation]}) {applied}:"
        f" data.orientation={other} would agree"
    )


def check_listed_size(name: str, decoded: Decoded, rule: DecodeOptions, listed: Size) -> None:
    """Checks an image against the size that its annotations name.

    Args:
        name: of the image.
        decoded: the image.
        rule: by which it was read.
        listed: height and width in the annotations; 0 where they have none.

    Raises:
        DataError: the sizes differ, so that joints and boxes would lie beside the persons.
    """
    size = decoded.pixels.shape[:2]
    if 0 in listed or size == listed:
        return
    remedy = agreeing_rule(decoded, rule, listed)
    if not remedy:
        turned = size == listed[::-1]
        remedy = f"{'the image is turned' if turned else 'it is another image'}; replace it"
    raise DataError(
        f"{name} is {_text(size)}, but its annotations are of an image of {_text(listed)}:"
        f" {remedy}."
    )


def image_warnings(name: str, decoded: Decoded, rule: DecodeOptions) -> tuple[Issue, ...]:
    """Finds what looks wrong about an image.

    Args:
        name: of the image.
        decoded: the image.
        rule: by which it was read.
    """
    warnings: list[Issue] = []
    orientation = decoded.header.orientation
    if orientation != 1:
        applied = "is applied" if rule.orientation == "upright" else "is not applied"
        warnings.append(
            Issue(
                name,
                "an EXIF orientation",
                f"{orientation}, {_ORIENTATIONS[orientation]}",
                f"data.orientation is {rule.orientation!r}, so it {applied}: see that the labels"
                " agree",
            )
        )
    if decoded.bits > 8 and decoded.used_bits <= decoded.bits - _SPARE_BITS:
        depth = max(8, decoded.used_bits)
        warnings.append(
            Issue(
                name,
                f"values of {decoded.used_bits} bits in a file of {decoded.bits}",
                "it is read as nearly black",
                f"set data.bit_depth={depth}, or as many bits as any image uses",
            )
        )
        return tuple(warnings)
    return (*warnings, *contrast_warnings(name, decoded.pixels))


def contrast_warnings(name: str, pixels: np.ndarray) -> tuple[Issue, ...]:
    """Finds an image that is black, of one value or nearly so."""
    low, high = int(pixels.min()), int(pixels.max())
    if high - low >= _MIN_RANGE:
        return ()
    if high == 0:
        return (Issue(name, "black pixels only"),)
    return (Issue(name, "hardly any contrast", f"its values are {low} to {high} of 0 to 255"),)


def _text(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
