"""Shapes as XLA writes them: how many elements, and how many bytes with and without padding."""

import math
import re
from dataclasses import dataclass

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_LAYOUT = re.compile(r"([\d,]*)(?::(?:T\(([\d,]+)\))?)?")


@dataclass(frozen=True)
class Array:
    """One array, such as `bf16[8,18]{0,1:T(8,128)(2,1)}`.

    Attributes:
      kind: of its numbers, such as "bf16".
      sides: its shape.
      order: the dimensions as they lie in memory, the fastest first; empty if unknown.
      tile: in whole multiples of which the fastest dimensions lie; the last is of the fastest.
      on_chip: whether it lies in a core's own memory, from which nothing has to come.
    """

    kind: str
    sides: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    on_chip: bool = False

    @property
    def elements(self) -> int:
        """How many there are, without padding."""
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return self._bytes(self.elements)

    @property
    def padded_bytes(self) -> int:
        """As it lies in memory, filled up to whole tiles."""
        sides = [self.sides[dimension] for dimension in self.order] or [self.elements]
        for place, tile in enumerate(reversed(self.tile[-len(sides) :])):
            sides[place] = -(-sides[place] // tile) * tile
        return self._bytes(math.prod(sides))

    def _bytes(self, elements: int) -> int:
        width = _BITS.get(self.kind)
        if width is None:
            digits = re.search(r"\d+", self.kind)
            width = int(digits[0]) if digits else 8
        return -(-elements * width // 8)


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape, such as the two of "(f32[2,3]{1,0}, s32[])"."""
    found = []
    for kind, sides, layout in _ARRAY.findall(shape):
        order, tile = _LAYOUT.match(layout or "").groups()  # type: ignore[union-attr]
        on_chip = "S(1)" in layout
        found.append(Array(kind, numbers(sides), numbers(order), numbers(tile or ""), on_chip))
    return found


def parts(shape: str) -> list[str]:
    """What a tuple holds, such as "f32[2]{0}" and "(s32[], s32[])"; of an array, itself."""
    if not shape.startswith("("):
        return [shape]
    found, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [part.strip() for part in found]


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list such as "8,128"."""
    return tuple(int(number) for number in text.split(",") if number)


def shape_bytes(shape: str) -> int:
    """Bytes of all arrays of a shape, without padding."""
    return sum(x.bytes for x in arrays(shape))
