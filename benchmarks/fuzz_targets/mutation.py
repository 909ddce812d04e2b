"""Random mutations of bytes and JSON, and the interface of the fuzz targets."""

import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTEGERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63)


ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf")),
    *("", "..", "../../x", "/etc/passwd", [], {}, [[]], [None], {"a": {}}, "\0"),
    *("é" * 50, [0] * 17, "9" * 50),
)


Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A parser to fuzz.

    Attributes:
      generate: returns a random input.
      parse: parses an input, with a folder for files; raises UserError or DataError if it is
        invalid.
    """

    generate: Callable[[random.Random], bytes]
    parse: Callable[[bytes, Path], None]

    @classmethod
    def from_seeds(
        cls, seeds: Sequence[bytes], mutate_structure: Mutate, parse: Callable[[bytes, Path], None]
    ) -> "Target":
        """Builds a target whose inputs are valid ones, mutated ones, or random bytes.

        Args:
          seeds: valid inputs.
          mutate_structure: mutates a seed with knowledge of its format.
          parse: see the class.
        """

        def generate(rng: random.Random) -> bytes:
            seed, kind = rng.choice(seeds), rng.random()
            if kind < 0.02:
                return seed
            if kind < 0.07:
                return random_bytes(rng, [seed[:n] for n in (0, 4, 8, 16)])
            if kind < 0.5:
                return mutate(seed, rng, seeds)
            return mutate_structure(seed, rng)

        return cls(generate, parse)


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Mutates bytes without knowledge of their format."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        position = rng.randrange(len(mutated) + 1)
        match rng.randrange(8):
            case 0 | 1 if mutated:
                mutated[position % len(mutated)] ^= 1 << rng.randrange(8)
            case 2:
                kind = rng.choice(["<I", ">I", "<H", ">H", "<Q", "B"])
                value = rng.choice(INTEGERS) % 2 ** (8 * struct.calcsize(kind))
                mutated[position : position + struct.calcsize(kind)] = struct.pack(kind, value)
            case 3:
                del mutated[position:]
            case 4:
                del mutated[position : position + rng.randrange(1, 64)]
            case 5:
                mutated[position:position] = mutated[position : position + rng.randrange(1, 64)]
            case 6:
                mutated[position:position] = rng.randbytes(rng.randrange(1, 64))
            case _ if others:
                mutated[position:] = rng.choice(others)[position:]
    return bytes(mutated)


def random_bytes(rng: random.Random, prefixes: Sequence[bytes] = (b"",)) -> bytes:
    """Returns random bytes after one of some prefixes."""
    return rng.choice(prefixes) + rng.randbytes(rng.choice((0, 1, 7, 64, 1000)))


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Replaces one of the nested values by an odd one, or deletes it."""
    locations: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in list(items):
            locations.append((node, key))
            if isinstance(child, dict | list):
                walk(child)

    value = json.loads(json.dumps(value))
    walk(value)
    if not locations or rng.random() < 0.05:
        return rng.choice(ODD_VALUES)
    node, key = rng.choice(locations)
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(ODD_VALUES)
    return value


def mutated_json(value: Any, rng: random.Random) -> bytes:
    """Returns mutated nested values as JSON; sometimes with extreme nesting or digits."""
    if rng.random() < 0.03:
        return b"[" * 200_000 + b"]" * rng.choice((0, 200_000))
    if rng.random() < 0.02:
        return b'{"a": ' + b"9" * 100_000 + b"}"
    for _ in range(rng.randrange(1, 4)):
        value = mutate_json(value, rng) if isinstance(value, dict | list) else value
    text = json.dumps(value).encode()
    return mutate(text, rng) if rng.random() < 0.2 else text


def check_message(error: BaseException, name: str) -> None:
    """Raises AssertionError unless an error is a UserError or DataError that names the file."""
    from data_pipelines import DataError
    from gsto_jax.errors import UserError

    if not isinstance(error, UserError | DataError):
        raise AssertionError(f"unexpected error type: {error!r}") from error
    if name not in str(error) or len(str(error)) > 2000:
        raise AssertionError(f"unclear message: {str(error)[:3000]}") from error
