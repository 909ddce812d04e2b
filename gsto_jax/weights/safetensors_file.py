"""The safetensors format: the length of a JSON header, the header, and the numbers."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.weights.dtypes import DTYPES

_METADATA = "__metadata__"
MOST_HEADER = 2**24
"""Bytes of a header: more than any network here could need, and Python makes twenty of each."""
_DIMENSIONS = 16
_SHOWN = 200  # letters of what is wrong, names out of the file among them


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name, in the order of the header.

    Raises:
      UserError: the file is damaged, or holds numbers of a kind that NumPy lacks.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            if length > MOST_HEADER:
                raise ValueError(f"its header of {length} bytes is longer than {MOST_HEADER}")
            header = json.loads(file.read(length), object_pairs_hook=_unique)
            if not isinstance(header, dict):
                raise ValueError("its header is no table")
            header.pop(_METADATA, None)
            return _arrays(header, memoryview(file.read()))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error) as error:
        raise UserError(
            f"{path} is no safetensors file, or damaged or cut off ({str(error)[:_SHOWN]}): get it "
            "again"
        ) from None


def _arrays(header: Mapping[str, Any], data: memoryview) -> dict[str, np.ndarray]:
    found = {}
    spans = []
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} is of the kind {entry['dtype']}, which is not read here")
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if len(shape) > _DIMENSIONS or any(
            type(n) is not int or not 0 <= n < 2**63 for n in (*shape, begin, end)
        ):
            raise ValueError(f"{name} has a size or an offset that cannot be")
        if end > len(data) or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the offsets of {name} fit neither its shape nor the file")
        found[name] = np.frombuffer(data[begin:end], dtype).reshape(shape)
        spans.append((begin, end))
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise ValueError("arrays overlap or leave gaps")
        reached = end
    if reached != len(data):
        raise ValueError("it is longer than its arrays")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    values, reached = [], 0
    for key, array in arrays.items():
        value = np.asarray(array, array.dtype.newbyteorder("<"))
        offsets = [reached, reached + value.nbytes]
        header[key] = {"dtype": names[value.dtype], "shape": value.shape, "data_offsets": offsets}
        values.append(value)
        reached += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in values:
            file.write(value.tobytes())
