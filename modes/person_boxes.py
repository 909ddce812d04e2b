"""Parses the person boxes of `--mode=predict`, from the command line or a JSON file."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.files import parse_json
from gsto_jax.predict.inputs import Input
from gsto_jax.storage import error_reason, to_path

Boxes = Sequence[Sequence[float]]
"""Boxes (x, y, width, height) of the persons in an image."""


def read_boxes(
    text: str | None, inputs: Sequence[Input], log: Callable[[str], None]
) -> Callable[[Input], Boxes | None]:
    """Parses the boxes of all images.

    Args:
      text: value of --boxes: x,y,w,h of each person separated by ; or the path of a JSON file.
      inputs: the images.
      log: called with a note about images of the file that are not among the inputs.

    Returns:
      A function that returns the boxes of an image, or None if the whole image is one person. It
      raises UserError for an image that is not in the file.

    Raises:
      UserError: invalid boxes, or a name in the file that matches several images.
    """
    if not text:
        return lambda entry: None
    if re.fullmatch(r"[-+\d.,;eE\s]+", text):
        rows = _parse_rows(text)
        return lambda entry: rows
    boxes = _read_file(text)
    keys = {entry.path: _key(entry, boxes) for entry in inputs}
    owners: dict[str, Path] = {}
    for path, key in keys.items():
        if key is not None and key in owners:
            raise UserError(
                f"--boxes={text}: {key!r} matches both {owners[key]} and {path}: use their paths "
                "as names"
            )
        if key is not None:
            owners[key] = path
    if unused := sorted(boxes.keys() - owners.keys()):
        names = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
        log(f"note: {text} has boxes of {len(unused)} images that are not predicted: {names}")

    def boxes_of(entry: Input) -> Boxes:
        key = keys[entry.path]
        if key is None:
            raise UserError(f"--boxes={text} has no boxes of {entry.path}")
        return boxes[key]

    return boxes_of


def _key(entry: Input, boxes: Mapping[str, Any]) -> str | None:
    """Returns the most specific name of an image that is in the file."""
    names = (str(entry.path), entry.name, entry.path.name, entry.path.stem)
    return next((name for name in names if name in boxes), None)


def _parse_rows(text: str) -> Boxes:
    try:
        rows = [[float(x) for x in row.split(",")] for row in text.split(";") if row.strip()]
    except ValueError:
        rows = []
    if not rows or any(len(row) != 4 for row in rows):
        raise UserError(f"--boxes must be x,y,w,h of each person, separated by ; got {text!r}")
    return rows


def _read_file(text: str) -> Mapping[str, Boxes]:
    try:
        # Bytes may start with a byte order mark.
        boxes = parse_json(to_path(text, "--boxes").read_bytes())
    except OSError as error:
        raise UserError(f"cannot read --boxes={text}: {error_reason(error)}") from None
    except ValueError as error:
        raise UserError(f"--boxes={text} is not valid JSON ({error})") from None
    if not isinstance(boxes, dict):
        raise UserError(f'--boxes={text} must contain {{"image.jpg": [[x, y, w, h], ...]}}')
    for name, rows in boxes.items():
        for row in rows if isinstance(rows, list) else [rows]:
            if not (isinstance(row, list) and len(row) == 4 and all(map(_is_number, row))):
                hint = ", without scores" if isinstance(row, list) and len(row) == 5 else ""
                raise UserError(
                    f"--boxes={text}: {name} must be a list of [x, y, w, h]{hint}; got "
                    f"{str(row)[:60]}"
                )
    return boxes


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
