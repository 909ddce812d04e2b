"""Pictures of predictions (needs OpenCV, from the `train` extra)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

Color = tuple[int, int, int]

IGNORED: Color = (90, 90, 90)
WRONG: Color = (230, 40, 40)
_TEXT, _PAPER, _STRIP = (30, 30, 30), (255, 255, 255), 22


def color_mask(labels: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Colours labels `h w`; those outside the palette (ignored ones) turn grey. `h w 3` uint8."""
    table = np.full((256, 3), IGNORED, np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def error_map(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, ignore_label: int = 255
) -> np.ndarray:
    """The image in faint grey, wrong pixels red, ignored ones dark. `h w 3` uint8."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    errors = np.repeat((128 + grey // 2)[..., None], 3, axis=-1)
    errors[(truth != prediction) & (truth != ignore_label)] = WRONG
    errors[truth == ignore_label] = IGNORED
    return errors


def sample_panel(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Color],
    ignore_label: int = 255,
) -> np.ndarray:
    """Image, truth, prediction and errors side by side, over a legend of the classes in them.

    Args:
      image: `h w 3` uint8 RGB.
      truth: `h w` labels.
      prediction: `h w` labels.
      classes: names.
      palette: colours.
      ignore_label: label of the pixels that do not count.

    Returns:
      uint8 RGB, at least `4 w` wide.
    """
    counted = truth != ignore_label
    right = float((truth == prediction)[counted].mean()) if counted.any() else float("nan")
    tiles = {
        "image": image,
        "truth": color_mask(truth, palette),
        "prediction": color_mask(prediction, palette),
        f"errors ({1 - right:.1%} of pixels)": error_map(image, truth, prediction, ignore_label),
    }
    columns = [np.vstack([_caption(name, tile.shape[1]), tile]) for name, tile in tiles.items()]
    gap = np.full((columns[0].shape[0], 4, 3), _PAPER, np.uint8)
    row = np.hstack([part for column in columns for part in (column, gap)][:-1])
    present = [k for k in np.union1d(truth, prediction) if k < len(classes)]
    legend = _legend([(classes[k], palette[k]) for k in present], row.shape[1])
    return np.vstack([row, legend])


class PictureWriter:
    """Writes a panel for each evaluated picture, up to a limit.

    Args:
      folder: where to.
      classes: names.
      palette: colours.
      ignore_label: label of the pixels that do not count.
      limit: how many at most; -1 for all.
      name: file name, less ".png", of the picture of an index; may hold slashes.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        palette: Sequence[Color],
        ignore_label: int,
        limit: int,
        name: Callable[[int], str],
    ) -> None:
        self.folder, self.classes, self.palette = folder, classes, palette
        self.ignore_label, self.limit, self.name = ignore_label, limit, name
        self.written = 0

    def write(self, batch: Mapping[str, np.ndarray], predictions: np.ndarray) -> None:
        """Writes the pictures of a batch ("image", "label", "index", "mask") as PNGs.

        Raises:
          ValueError: a name that leads out of the folder.
        """
        for n in np.flatnonzero(batch["mask"]):
            if self.written == self.limit:
                return
            panel = sample_panel(
                batch["image"][n],
                batch["label"][n],
                predictions[n],
                self.classes,
                self.palette,
                self.ignore_label,
            )
            path = self.folder / f"{self.name(int(batch['index'][n]))}.png"
            if self.folder.resolve() not in path.resolve().parents:
                raise ValueError(f"the picture {path} would lie outside {self.folder}")
            write_png(path, panel)
            self.written += 1


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes `h w 3` uint8 RGB. Raises OSError if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise OSError(f"cannot write {path}")


def _text(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _TEXT, 1, cv2.LINE_AA)


def _caption(text: str, width: int) -> np.ndarray:
    strip = np.full((_STRIP, width, 3), _PAPER, np.uint8)
    _text(strip, text, 4, 15)
    return strip


def _legend(entries: Sequence[tuple[str, Color]], width: int) -> np.ndarray:
    placed, x, line = [], 4, 0
    for name, color in entries:
        (advance, _), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
        if x + 34 + advance > width and x > 4:
            x, line = 4, line + 1
        placed.append((x, line, name, color))
        x += 34 + advance
    canvas = np.full((_STRIP * (line + 1), width, 3), _PAPER, np.uint8)
    for x, line, name, color in placed:
        top = line * _STRIP
        cv2.rectangle(canvas, (x, top + 5), (x + 12, top + 17), color, -1)
        _text(canvas, name, x + 17, top + 15)
    return canvas
