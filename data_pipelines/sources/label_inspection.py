"""What a label file holds, and whether its format altered the ids in it."""

import cv2
import numpy as np

from data_pipelines.sources.audit import Inspection, Issue, count_pixels
from data_pipelines.sources.label_map import UNKNOWN, LabelMap

_ALIKE = 3
"""Of eight neighbors: fewer with the same id than this are rare in label maps, and common where
JPEG altered one. That finds the share of altered pixels to about two percentage points; ids that
differ by one or two also change without a trace."""
_REMEDY = "save label maps as PNG, from the originals"


def inspect_label(
    name: str, subject: str, raw: np.ndarray, label_map: LabelMap, data: bytes = b""
) -> Inspection:
    """Counts a label's ids.

    Args:
        name: of the image.
        subject: what to call the label in findings.
        raw: `h w` ids of the file, unsigned integers.
        label_map: their train ids.
        data: the content of the file, to see whether its format is lossy.
    """
    ids = count_pixels(raw)
    pixels: dict[int, int] = {}
    unknown: dict[int, int] = {}
    for value, count in ids.items():
        train = int(label_map.table[value])
        if train == UNKNOWN:
            unknown[value] = count
        else:
            pixels[train] = pixels.get(train, 0) + count
    problems: tuple[Issue, ...] = ()
    warnings: tuple[Issue, ...] = ()
    if kind := lossy_format_name(data):
        found = _lossy(subject, kind, estimate_altered_fraction(raw, label_map), len(unknown))
        problems, warnings = ((found,), ()) if unknown else ((), (found,))
    elif unknown:
        problems = (label_map.finding(subject, unknown, raw.size),)
    return Inspection(name, dict(sorted(pixels.items())), unknown, ids, problems, warnings)


def lossy_format_name(data: bytes) -> str:
    """Returns the name of an image format that alters pixels, by a file's first bytes; or ""."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    return "lossy WebP" if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 " else ""


def estimate_altered_fraction(raw: np.ndarray, label_map: LabelMap) -> float:
    """Estimates the share of a label's pixels that compression altered.

    Those are pixels of unknown ids, and pixels whose id few of their neighbors have.

    Args:
        raw: `h w` ids of the file, unsigned integers.
        label_map: which ids are known.
    """
    if not raw.size:
        return 0.0
    height, width = raw.shape
    around = cv2.copyMakeBorder(raw.astype(np.int32), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=[-1])
    alike = np.zeros(raw.shape, np.uint8)
    for y in range(3):
        for x in range(3):
            alike += around[y : y + height, x : x + width] == raw
    alone = alike - 1 < _ALIKE  # less the pixel itself
    return float((alone | (label_map.table[raw] == UNKNOWN)).mean())


def _lossy(subject: str, kind: str, share: float, unknown: int) -> Issue:
    ids = f", and {unknown} ids that no class has" if unknown else ""
    detail = f"{share:.1%} of its pixels look altered{ids}"
    return Issue(subject, f"a label stored as {kind}, which alters ids", detail, _REMEDY, share)
