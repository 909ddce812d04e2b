"""Counts the ids of a label, and detects image formats that alter ids."""

import cv2
import numpy as np

from data_pipelines.sources.label_map import UNKNOWN, LabelMap
from data_pipelines.sources.stats import Issue, LabelStats, count_pixels

_MIN_EQUAL_NEIGHBORS = 3
"""A pixel with fewer equal pixels among its 8 neighbors counts as altered: rare in label maps, and
common where JPEG altered one. The estimate is accurate to about 2 percentage points, except for ids
that differ by 1 or 2."""


def inspect_label(
    name: str, subject: str, ids: np.ndarray, label_map: LabelMap, data: bytes = b""
) -> LabelStats:
    """Computes the statistics of a label.

    Args:
      name: name of the record.
      subject: name of the label in issues.
      ids: `h w`, unsigned integers as stored.
      label_map: their train ids.
      data: content of the file, to detect a lossy format.
    """
    file_ids = count_pixels(ids)
    pixels: dict[int, int] = {}
    unknown: dict[int, int] = {}
    for value, count in file_ids.items():
        train_id = int(label_map.table[value])
        if train_id == UNKNOWN:
            unknown[value] = count
        else:
            pixels[train_id] = pixels.get(train_id, 0) + count
    problems: list[Issue] = []
    warnings: list[Issue] = []
    if kind := lossy_format_name(data):
        fraction = estimate_altered_fraction(ids, label_map)
        detail = f"{fraction:.1%} of its pixels look altered"
        if unknown:
            detail += f", and {len(unknown)} ids have no class"
        fault, remedy = f"a label stored as {kind}, which alters ids", "save label maps as PNG"
        issue = Issue(subject, fault, detail, f"{remedy}, from the originals", fraction)
        (problems if unknown else warnings).append(issue)
    elif unknown:
        problems.append(label_map.unknown_issue(subject, unknown, ids.size))
    return LabelStats.from_record(
        name,
        dict(sorted(pixels.items())),
        unknown_ids=unknown,
        file_ids=file_ids,
        problems=problems,
        warnings=warnings,
    )


def lossy_format_name(data: bytes) -> str:
    """Returns the name of a lossy image format by a file's first bytes; "" for other formats."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    return "lossy WebP" if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 " else ""


def estimate_altered_fraction(ids: np.ndarray, label_map: LabelMap) -> float:
    """Estimates the fraction of a label's pixels that lossy compression altered.

    Pixels count as altered if their id is unknown or few neighbors have the same id.
    """
    if not ids.size:
        return 0.0
    height, width = ids.shape
    bordered = cv2.copyMakeBorder(ids.astype(np.int32), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=[-1])
    equal = np.zeros(ids.shape, np.uint8)
    for y in range(3):
        for x in range(3):
            equal += bordered[y : y + height, x : x + width] == ids
    isolated = equal - 1 < _MIN_EQUAL_NEIGHBORS  # less the pixel itself
    return float((isolated | (label_map.table[ids] == UNKNOWN)).mean())
