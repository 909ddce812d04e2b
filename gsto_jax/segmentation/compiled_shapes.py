"""Counts the shapes that a network compiles for, and suggests a padding that reduces them."""

from collections.abc import Iterable
from dataclasses import replace

from gsto_jax.segmentation.protocol import EvalProtocol
from gsto_jax.types import Size

_MULTIPLES = (32, 64, 128, 256, 512)


def compiled_shapes(protocol: EvalProtocol, sizes: Iterable[Size]) -> set[Size]:
    """Returns the shapes of all windows of images of these sizes."""
    if protocol.is_padding_invariant:
        return {plan.shape for plan in protocol.scale_plans(sizes)}
    return {plan.shape for size in set(sizes) for plan in protocol.scale_plans([size])}


def compilation_note(protocol: EvalProtocol, sizes: Iterable[Size]) -> str | None:
    """Returns a line on how many shapes will compile; None if at most one."""
    sizes = set(sizes)
    count = len(compiled_shapes(protocol, sizes))
    if count < 2:
        return None
    images = f"{len(sizes)} image size{'s' if len(sizes) > 1 else ''}"
    fewest, remedy = count, ""
    for multiple in _MULTIPLES:
        if multiple > protocol.pad_to and fewest > 3:
            padded_count = len(compiled_shapes(replace(protocol, pad_to=multiple), sizes))
            if padded_count < fewest:
                fewest = padded_count
                remedy = f"; eval.pad_to={multiple} reduces this to {fewest}"
    return f"{images}: the network compiles for {count} shapes{remedy}"
