"""What becomes of transparency, EXIF orientation and values of more than 8 bits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALPHAS = ("white", "black", "drop")
ORIENTATIONS = ("upright", "stored")


class ImageError(ValueError):
    """A file that cannot be read as an image: the reason and the remedy, without its name."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How the pixels of an image file become RGB.

    Attributes:
      alpha: what lies behind transparent pixels: "white" or "black"; "drop": alpha is ignored, and
        the color that the file stores there is read.
      orientation: "upright": as the EXIF orientation says, which is how viewers show the image;
        "stored": as the rows of the file are.
      bit_depth: bits that values of more than 8 bits really use, 8 to 16, such as 10 or 12 of a
        camera that writes 16-bit files; the upper 8 of them are read. 0: the file's own range,
        which for int32 and float is 0..1, 0..255 or 0..65535, by its largest value.

    Raises:
      ValueError: another value; names the attribute.
    """

    alpha: str = "white"
    orientation: str = "upright"
    bit_depth: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for values that no rule has."""
        for name, choices in (("alpha", ALPHAS), ("orientation", ORIENTATIONS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(choices)}")
        depth = self.bit_depth
        if type(depth) is not int or not (depth == 0 or 8 <= depth <= 16):
            raise ValueError(
                f"bit_depth is {depth!r}; give the bits that 16-bit files use, 8 to 16, or 0 for"
                " the file's own range"
            )

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "DecodeOptions":
        """Returns the rule among the settings of a dataset, `config.data`."""
        return cls(**{name: data[name] for name in ("alpha", "orientation", "bit_depth")})
