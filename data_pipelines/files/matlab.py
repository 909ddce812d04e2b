"""Reads arrays from untrusted MATLAB files."""

import io
import math
import struct
import zlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import scipy.io

from data_pipelines.files.limits import MAX_TEXT_BYTES
from gsto_jax.errors import first_line

_NUMERIC_CLASSES = {
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("single", "double", "logical"),
}
_HEADER_BYTES = 128
_COMPRESSED = 15  # element type miCOMPRESSED


def read_mat(data: bytes, variable: str) -> np.ndarray:
    """Reads a numeric array of a MATLAB file of version 5 (`save -v6` or `-v7`).

    Raises:
      ValueError: no such variable, damaged, or larger than `MAX_TEXT_BYTES`.
    """
    try:
        return _load(data, variable, _NUMERIC_CLASSES)
    except Exception as error:  # scipy raises any exception on a malformed file
        raise ValueError(first_line(error)) from None


def read_struct_array(data: bytes, variable: str, field: str) -> np.ndarray:
    """Reads a field of a struct, a numeric array.

    Raises:
      ValueError: no such variable or field, damaged, or larger than `MAX_TEXT_BYTES`.
    """
    try:
        array = np.asarray(_load(data, variable, {"struct"})[0, 0][field])
    except Exception as error:  # scipy raises any exception on a malformed file
        raise ValueError(first_line(error)) from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{field} is not numeric")
    return array


def read_structs(data: bytes, variable: str, fields: Sequence[str]) -> list[tuple[Any, ...]]:
    """Reads fields of an array of structs, each a number or a text.

    Raises:
      ValueError: no such variable or field, damaged, or larger than `MAX_TEXT_BYTES`.
    """
    try:
        structs = np.atleast_1d(_load(data, variable, {"struct"}, squeeze_me=True))
        columns = [[np.asarray(value).item() for value in structs[field]] for field in fields]
        return list(zip(*columns, strict=True))
    except Exception as error:  # scipy raises any exception on a malformed file
        raise ValueError(first_line(error)) from None


def read_struct(data: bytes, variable: str) -> np.ndarray:
    """Reads a struct with its nested fields, as scipy returns them without singleton dimensions.

    Raises:
      ValueError: no such variable, damaged, or larger than `MAX_TEXT_BYTES`.
    """
    try:
        return _load(data, variable, {"struct"}, squeeze_me=True)
    except Exception as error:  # scipy raises any exception on a malformed file
        raise ValueError(first_line(error)) from None


def _load(
    data: bytes, variable: str, kinds: Collection[str], squeeze_me: bool = False
) -> np.ndarray:
    """Loads a variable of one of some kinds, whose size the bytes can hold."""
    plain = _decompress(data)
    variables = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(io.BytesIO(plain))}
    shape, kind = variables[variable]
    if kind not in kinds or math.prod(shape) > len(plain):
        raise ValueError(f"it is {kind} of shape {shape} in {len(plain)} bytes")
    loaded = scipy.io.loadmat(io.BytesIO(plain), variable_names=[variable], squeeze_me=squeeze_me)
    return np.asarray(loaded[variable])


def _decompress(data: bytes) -> bytes:
    """Returns the file with its elements decompressed, so that stated lengths can be trusted."""
    byte_order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEADER_BYTES])
    if byte_order is None:
        raise ValueError("it is not a MATLAB file of version 5")
    elements, offset, remaining = [data[:_HEADER_BYTES]], _HEADER_BYTES, MAX_TEXT_BYTES
    while offset + 8 <= len(data):
        kind, size = struct.unpack_from(f"{byte_order}II", data, offset)
        if kind == _COMPRESSED:
            packed = data[offset + 8 : offset + 8 + size]
            # One more byte than allowed, since 0 would mean no limit.
            element = zlib.decompressobj().decompress(packed, remaining + 1)
        else:
            element = data[offset : offset + 8 + size]
        elements.append(element)
        remaining, offset = remaining - len(element), offset + 8 + size
        if remaining < 0:
            raise ValueError(f"it expands to more than {MAX_TEXT_BYTES} bytes")
    return b"".join(elements)
