"""Draws docs/gates.png: gates and branches of GSTO-HRNet beside those of plain HRNet.

    python main.py --config=configs/ablation.py:data=scenes,mini --workdir=runs/gsto
    python main.py --config=configs/quickstart.py:baseline --workdir=runs/plain
    python benchmarks/gate_figure.py runs/gsto runs/plain docs/gates.png

Cuts the tiles out of the PNGs that the evaluation of each run wrote of its first image.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from gsto_jax.drawing.tiles import GAP, LINE_HEIGHT, tile_grid, with_caption

IMAGE = "val_000000"
TILE = (320, 160)
GATES = (
    (1, 0, "gate, branch 0 to 0"),
    (1, 2, "gate, branch 0 to 2"),
    (2, 0, "gate, branch 1 to 0"),
    (2, 3, "gate, branch 1 to 3"),
)
"""Row and column of a tile in the figure of the gates, and its caption."""


def read(run: str, kind: str) -> np.ndarray:
    """Returns an image of the run's evaluation, `h w 3` uint8."""
    return np.asarray(Image.open(Path(run, "eval-val", f"{IMAGE}{kind}.png")).convert("RGB"))


def cut(image: np.ndarray, row: int, column: int, size: tuple[int, int] = TILE) -> np.ndarray:
    """Returns a tile of a figure without its caption, scaled to `TILE`."""
    width, height = size
    top, left = row * (height + LINE_HEIGHT) + LINE_HEIGHT, column * (width + GAP)
    tile = Image.fromarray(image[top : top + height, left : left + width])
    return np.asarray(tile.resize(TILE, Image.Resampling.NEAREST))


def main() -> None:
    """Writes the figure."""
    gsto, plain, path = sys.argv[1:]
    panel, plain_panel = read(gsto, ""), read(plain, "")
    size = ((panel.shape[1] - 3 * GAP) // 4, 128)
    gates = read(gsto, "_gates")
    rows = [
        [
            with_caption("image", cut(gates, 0, 0)),
            with_caption("labels", cut(panel, 0, 1, size)),
            with_caption("prediction of GSTO-HRNet", cut(panel, 0, 2, size)),
            with_caption("prediction of HRNetV2", cut(plain_panel, 0, 2, size)),
        ],
        [with_caption(text, cut(gates, row, column)) for row, column, text in GATES],
    ]
    for name, run in (("GSTO-HRNet", gsto), ("HRNetV2", plain)):
        branches = read(run, "_branches")
        rows.append(
            [with_caption(f"{name}, branch {n}", cut(branches, 0, n + 1)) for n in range(4)]
        )
    Image.fromarray(tile_grid(rows)).quantize(256, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


if __name__ == "__main__":
    main()
