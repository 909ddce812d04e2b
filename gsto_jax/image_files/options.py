"""Options for decoding image files: channels, alpha, EXIF orientation and range of values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

ALPHAS = ("white", "black", "drop")
ORIENTATIONS = ("upright", "stored")
MAX_CHANNELS = 16
NO_RANGE = (0.0, 0.0)


class ImageError(ValueError):
    """An image that cannot be decoded. The message has the reason and remedy, but no file name."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How an image file becomes an array `h w c` uint8.

    Attributes:
      alpha: background of transparent pixels, "white" or "black"; "drop" ignores alpha and keeps
        the stored colors.
      orientation: "upright" applies the EXIF orientation, as image viewers do; "stored" ignores it.
      bit_depth: bits in use, 8 to 16, of images with more than 8 bits per channel, such as 12 for a
        camera that writes 12-bit values to 16-bit files. The upper 8 of these bits are kept.
        0: the full range of uint16.
      value_range: (low, high), the values of images with more than 8 bits per channel that become
        0 and 255; values outside are clipped. (0, 0): see bit_depth. One of both is needed for
        int32 and floating-point values.
      channels: number of channels, 1 to 16. 3: RGB, to which all files are converted. Otherwise a
        file must have this number of channels, which are kept as they are stored; of a gray image
        with alpha, 1 channel composites the alpha.

    Raises:
      ValueError: an unsupported value.
    """

    alpha: str = "white"
    orientation: str = "upright"
    bit_depth: int = 0
    value_range: tuple[float, float] = NO_RANGE
    channels: int = 3

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
        object.__setattr__(self, "value_range", tuple(self.value_range))
        if self.value_range != NO_RANGE:
            expected = "value_range must be (low, high) with low < high, or (0, 0) for none"
            if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
                raise ValueError(f"{expected}; got {self.value_range}")
            if depth:
                raise ValueError(
                    f"value_range must be (0, 0) with bit_depth={depth}, which is"
                    f" another range; got {self.value_range}"
                )
        if type(self.channels) is not int or not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels must be 1 to {MAX_CHANNELS}; got {self.channels!r}")

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "DecodeOptions":
        """Returns the options in the `data` section of a config."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})
