"""Converts pixel values of any dtype to uint8."""

from typing import Any

import numpy as np

from gsto_jax.image_files.options import NO_RANGE, DecodeOptions, ImageError


def to_bytes(
    values: np.ndarray, options: DecodeOptions, file_bits: int = 0
) -> tuple[np.ndarray, int, int]:
    """Converts values of any dtype to uint8.

    uint8 stays, and bool becomes 0 and 255. Other values are scaled linearly from
    `options.value_range` to 0..255 and clipped or, without a range, lose all but the upper 8 of
    their bits.

    Args:
      values: of any shape.
      options: range or bits in use.
      file_bits: bits in use according to the file; 0: those of uint16, unknown for other dtypes.

    Returns:
      uint8 values, their bits before the conversion, and the bits of the maximum; 8 and 8 if the
      bits are not reduced.

    Raises:
      ImageError: NaN or infinite values, values beyond the bits, or neither range nor bits.
    """
    if values.dtype == np.uint8:
        return values, 8, 8
    if values.dtype.kind == "b":
        return values * np.uint8(255), 8, 8
    if values.dtype.kind not in "uif":
        raise ImageError(f"its values must be integers or floating-point; got {values.dtype}")
    _check_finite(values)
    if options.value_range != NO_RANGE:
        low, high = options.value_range
        values = values.astype(np.result_type(values, np.float32))
        scaled = (values - low) * (255 / (high - low))
        return (np.clip(scaled, 0, 255) + 0.5).astype(np.uint8), 8, 8
    depth = options.bit_depth or file_bits or (16 if values.dtype == np.uint16 else 0)
    if not depth:
        raise ImageError(
            f"its values are {values.dtype}, {values.min():g} to {values.max():g}, of an unknown"
            " range: set value_range=(low, high), the values that become 0 and 255 in all images"
        )
    _check_range(values, depth)
    if values.dtype.kind == "f":
        values = values + 0.5 if depth == 8 else values
    integers = values.astype(np.uint16)
    return (integers >> (depth - 8)).astype(np.uint8), depth, int(integers.max()).bit_length()


def alpha_to_bytes(alpha: np.ndarray) -> np.ndarray:
    """Converts alpha to uint8: the full range of an integer dtype, 0..1 of floating-point."""
    if alpha.dtype.kind == "f":
        return (255 * np.clip(np.nan_to_num(alpha), 0, 1) + 0.5).astype(np.uint8)
    return to_bytes(alpha, DecodeOptions())[0]


def compose(colors: np.ndarray, alpha: np.ndarray, background: str) -> np.ndarray:
    """Composes `h w c` colors with `h w 1` alpha, both uint8, over a background color."""
    if background == "drop":
        return np.ascontiguousarray(colors)
    opaque = alpha.astype(np.float32) / 255
    gray = 255 if background == "white" else 0
    return (colors * opaque + gray * (1 - opaque) + 0.5).astype(np.uint8)


def native(values: Any) -> np.ndarray:
    """Returns an array in the byte order of the machine."""
    values = np.asarray(values)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _check_finite(values: np.ndarray) -> None:
    if values.dtype.kind == "f" and (count := values.size - np.isfinite(values).sum()):
        raise ImageError(
            f"{count} of its {values.size} values are NaN or infinite; replace them by a number"
        )


def _check_range(values: np.ndarray, depth: int) -> None:
    smallest, largest = values.min(), values.max()
    if not (smallest >= 0 and largest <= 2**depth - 1):
        raise ImageError(
            f"its values must be in 0..{2**depth - 1} ({depth} bits); got {smallest:g} to"
            f" {largest:g}. Set bit_depth to the bits in use, or value_range to the range"
        )
