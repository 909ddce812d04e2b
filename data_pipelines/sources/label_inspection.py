"""Counts the classes of a label, and detects image formats that alter labels."""

from collections.abc import Collection

import numpy as np

from data_pipelines.sources.color_map import OTHER_COLORS, ColorMap
from data_pipelines.sources.label_map import LabelMap
from data_pipelines.sources.stats import Issue, LabelStats
from gsto_jax.image_files import ImageError, open_image


def inspect_label(
    name: str, subject: str, values: np.ndarray, label_map: LabelMap | ColorMap, data: bytes = b""
) -> LabelStats:
    """Computes the statistics of a label.

    Args:
      name: name of the record.
      subject: name of the label in issues.
      values: `h w` as `label_map.decode` returns them.
      label_map: their train ids.
      data: content of the file, to detect a lossy format.
    """
    counts = label_map.count(values)
    problems: list[Issue] = []
    warnings: list[Issue] = []
    if kind := lossy_format_name(data):
        noun = label_map.value_noun
        fraction = label_map.altered_fraction(values)
        detail = f"{fraction:.1%} of its pixels look altered"
        if counts.unknown:
            incomplete = OTHER_COLORS in counts.unknown
            number = f"more than {len(counts.unknown) - 1}" if incomplete else len(counts.unknown)
            detail += f", and {number} {noun} have no class"
        fault = f"a label stored as {kind}, which alters {noun}"
        remedy = "save label maps as PNG, from the originals"
        if counts.unknown and noun == "colors":
            remedy += ", or set data.color_tolerance"
        issue = Issue(subject, fault, detail, remedy, fraction)
        (problems if counts.unknown else warnings).append(issue)
    elif counts.unknown:
        problems.append(label_map.unknown_issue(subject, counts.unknown, values.size))
    return LabelStats.from_record(
        name,
        counts.pixels,
        unknown_ids=counts.unknown,
        file_ids=counts.file_ids,
        inexact=counts.inexact,
        palette=_palette(data, counts.file_ids),
        problems=problems,
        warnings=warnings,
    )


def lossy_format_name(data: bytes) -> str:
    """Returns the name of a lossy image format by a file's first bytes; "" for other formats."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    return "lossy WebP" if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 " else ""


def _palette(data: bytes, ids: Collection[int]) -> dict[int, int]:
    """Returns the color 0xRRGGBB of each id in the palette of a file; empty without a palette."""
    try:
        with open_image(data) as image:
            flat = image.getpalette("RGB") if image.mode == "P" else None
    except ImageError:  # tiles
        return {}
    colors = [int.from_bytes(flat[n : n + 3]) for n in range(0, len(flat), 3)] if flat else []
    return {file_id: colors[file_id] for file_id in ids if file_id < len(colors)}
