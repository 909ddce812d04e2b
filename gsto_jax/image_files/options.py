"""Options for decoding image files: alpha, EXIF orientation and bit depth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALPHAS = ("white", "black", "drop")
ORIENTATIONS = ("upright", "stored")


class ImageError(ValueError):
    """An image that cannot be decoded. The message has the reason and remedy, but no file name."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How an image file becomes RGB.

    Attributes:
      alpha: background of transparent pixels, "white" or "black"; "drop" ignores alpha and keeps
        the stored colors.
      orientation: "upright" applies the EXIF orientation, as image viewers do; "stored" ignores it.
      bit_depth: bits in use, 8 to 16, of images with more than 8 bits per channel, such as 12 for a
        camera that writes 12-bit values to 16-bit files. The upper 8 of these bits are kept.
        0: the full range of the file's dtype; for int32 and float the maximum selects 0..1, 0..255
        or 0..65535.

    Raises:
      ValueError: an unsupported value.
    """

    alpha: str = "white"
    orientation: str = "upright"
    bit_depth: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, choices in (("alpha", ALPHAS), ("orientation", ORIENTATIONS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        depth = self.bit_depth
        if type(depth) is not int or not (depth == 0 or 8 <= depth <= 16):
            raise ValueError(
                f"bit_depth must be 8 to 16, or 0 for the full range of the dtype; got {depth!r}"
            )

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "DecodeOptions":
        """Returns the options in the `data` section of a config."""
        return cls(**{name: data[name] for name in ("alpha", "orientation", "bit_depth")})
