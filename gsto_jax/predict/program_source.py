"""Functions to export: the network of a predictor with all steps around it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
from jax.export import SymbolicScope, symbolic_shape

from gsto_jax.types import Size


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of an input or output.

    Attributes:
      shape: lengths; letters are free lengths.
      dtype: name of the dtype.
    """

    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class ProgramSource:
    """A function to export.

    Attributes:
      call: maps the inputs, in their order, to the outputs by name.
      inputs: by name; the first is "image".
      outputs: by name.
    """

    call: Callable[..., dict[str, Array]]
    inputs: Mapping[str, ArraySpec]
    outputs: Mapping[str, ArraySpec]

    def tracing_specs(self, size: Size | None = None) -> list[jax.ShapeDtypeStruct]:
        """Returns the inputs to trace with, whose image has the size (h, w), or any for None."""
        scope, fixed = SymbolicScope(), dict(zip("hw", size or (), strict=False))
        result: list[Any] = []
        for spec in self.inputs.values():
            text = ", ".join(str(fixed.get(str(length), length)) for length in spec.shape)
            shape = symbolic_shape(text, scope=scope)
            result.append(jax.ShapeDtypeStruct(shape, spec.dtype))
        return result
