"""How many shapes of images a network compiles for, and which padding makes them fewer."""

from collections.abc import Iterable
from dataclasses import replace

from gsto_jax.segmentation.protocol import EvalProtocol
from gsto_jax.types import Size

_LARGER = (32, 64, 128, 256, 512)


def compiled_shapes(protocol: EvalProtocol, sizes: Iterable[Size]) -> set[Size]:
    """Returns the shapes of windows at which a test passes images of these sizes."""
    if protocol.is_padding_invariant:
        return {look.shape for look in protocol.scale_plans(sizes)}
    return {look.shape for size in set(sizes) for look in protocol.scale_plans([size])}


def compilation_note(protocol: EvalProtocol, sizes: Iterable[Size]) -> str | None:
    """Returns a line about the shapes that will compile; None if there is one at most."""
    sizes = set(sizes)
    count = len(compiled_shapes(protocol, sizes))
    if count < 2:
        return None
    images = f"{len(sizes)} image size{'s' if len(sizes) > 1 else ''}"
    fewer = count
    for multiple in _LARGER:
        if multiple > protocol.pad_to and fewer > 3:
            shared = len(compiled_shapes(replace(protocol, pad_to=multiple), sizes))
            if shared < fewer:
                fewer, remedy = shared, f"; --config.eval.pad_to={multiple} makes it {shared}"
    return f"{images}: the network compiles for {count} shapes" + (remedy if fewer < count else "")
