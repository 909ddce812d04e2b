"""Boxes of persons for `--mode=predict`, from the command line or by image from a JSON file."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.files import parse_json
from gsto_jax.predict.files import Input

Boxes = Sequence[Sequence[float]]
Say = Callable[[str], None]


def read_boxes(
    text: str | None, inputs: Sequence[Input], say: Say
) -> Callable[[Input], Boxes | None]:
    """Reads the boxes of all images.

    Args:
      text: of --boxes: x,y,w,h of each person with ; between them, or the path of a JSON file.
      inputs: the images; where the file names several of them by one name, that is an error.
      say: called with a note about images of the file that are not among the inputs.

    Returns:
      A function that returns the boxes of an image; None where the whole image is one person. It
      raises UserError for an image that the file lacks.

    Raises:
      UserError: no boxes, or a name in the file that fits several images; says which.
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
                f"--boxes={text} names {key!r}, which fits {owners[key]} and {path}: name them by "
                "their paths"
            )
        if key is not None:
            owners[key] = path
    if unused := sorted(boxes.keys() - owners.keys()):
        some = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
        say(f"note: {text} also has boxes of {len(unused)} images that are not predicted: {some}")

    def boxes_of(entry: Input) -> Boxes:
        key = keys[entry.path]
        if key is None:
            raise UserError(f"{text} has no boxes of {entry.path}")
        return boxes[key]

    return boxes_of


def _key(entry: Input, boxes: Mapping[str, Any]) -> str | None:
    """Returns the most specific name of an image that the file has."""
    names = (str(entry.path), entry.name, entry.path.name, entry.path.stem)
    return next((name for name in names if name in boxes), None)


def _parse_rows(text: str) -> Boxes:
    try:
        rows = [[float(x) for x in row.split(",")] for row in text.split(";") if row.strip()]
    except ValueError:
        rows = []
    if not rows or any(len(row) != 4 for row in rows):
        raise UserError(f"--boxes={text}: give x,y,w,h of each person, with ; between them")
    return rows


def _read_file(text: str) -> Mapping[str, Boxes]:
    try:
        boxes = parse_json(
            Path(text).expanduser().read_bytes()
        )  # bytes, which may begin with a BOM
    except OSError as error:
        raise UserError(f"cannot read --boxes={text}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--boxes={text} is no JSON ({error})") from None
    if not isinstance(boxes, dict):
        raise UserError(
            f'--boxes={text} holds no boxes: {{"image.jpg": [[x, y, w, h], ...]}} is needed'
        )
    for name, rows in boxes.items():
        for row in rows if isinstance(rows, list) else [rows]:
            if not (isinstance(row, list) and len(row) == 4 and all(map(_is_number, row))):
                hint = ", without scores" if isinstance(row, list) and len(row) == 5 else ""
                raise UserError(
                    f"--boxes={text} has {str(row)[:60]} for {name}: give a list of [x, y, w, h]"
                    f"{hint}"
                )
    return boxes


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
