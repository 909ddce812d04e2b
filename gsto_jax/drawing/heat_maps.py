"""What the network looks at: heat maps of its branches (paper, Figure 1) and of its gates."""

import re
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from gsto_jax.drawing.tiles import GAP, grid, with_caption

_WIDTH = 320  # of a tile, in pixels
_OPACITY = 0.6


def branch_figure(image: np.ndarray, maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The image, and for each branch of the last stage the mean over its channels.

    Each branch is scaled to its own range, which the caption gives.

    Args:
      image: `h w 3` uint8 RGB.
      maps: "branch/0" and so on, `h_i w_i`, of `gsto_jax.evaluation.forward.explanation`; others
        are left out.

    Returns:
      uint8 RGB, one row of tiles.
    """
    canvas = _tile(image)
    tiles = [with_caption("image", canvas)]
    for n, values in enumerate(_branches(maps)):
        low, high = float(values.min()), float(values.max())
        text = f"branch {n}, {values.shape[1]}x{values.shape[0]}: {low:.2f} to {high:.2f}"
        tiles.append(with_caption(text, heat_map(values, low, high, canvas.shape[:2])))
    return grid([tiles])


def split_branch_figure(figure: np.ndarray) -> list[np.ndarray]:
    """The tiles of a `branch_figure`, with their captions."""
    starts = range(0, figure.shape[1], _WIDTH + GAP)
    return [figure[:, x : x + _WIDTH] for x in starts]


def gate_figure(image: np.ndarray, maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The gates over the image: blue lets through least, red most.

    The first row shows the image and the gates of the GTMs, or of a context module, each at the
    resolution of what it scales. Below, the GFM gates of the last module: a row for each source
    branch, a column for each target.

    Args:
      image: `h w 3` uint8 RGB.
      maps: "gate/NAME", `h w` in 0..1, of `gsto_jax.evaluation.forward.explanation`; others are
        left out.

    Returns:
      uint8 RGB, rows of tiles.
    """
    gates = {k.removeprefix("gate/"): v for k, v in maps.items() if k.startswith("gate/")}
    # Released gates end in a ReLU and a sigmoid, so they lie in [0.5, 1).
    low = 0.5 if min(float(gate.min()) for gate in gates.values()) >= 0.5 else 0.0
    canvas = _tile(image)

    def over(name: str, text: str) -> np.ndarray:
        values = gates[name]
        mixed = blend_over_gray(canvas, heat_map(values, low, 1.0, canvas.shape[:2]))
        return with_caption(f"{text}: {values.min():.2f} to {values.max():.2f}", mixed)

    first = [with_caption(f"image; gates from {low:g} (blue) to 1 (red)", canvas)]
    first += [over(name, f"GTM, {name}") for name in sorted(gates) if name.startswith("transition")]
    first += [over(name, name) for name in gates if name.startswith("context/")]
    rows = [first]
    fusions = [name for name in gates if "/gate" in name]
    if fusions:
        last = max(name.rpartition("/")[0] for name in fusions)
        for source, targets in _sources([name for name in fusions if name.startswith(last)]):
            rows.append([over(name, f"{last}, {source} to {target}") for target, name in targets])
    return grid(rows)


def _sources(names: Sequence[str]) -> list[tuple[int, list[tuple[int, str]]]]:
    targets_of: dict[int, list[tuple[int, str]]] = {}
    for name in names:
        source, target = map(int, re.findall(r"gate(\d+)_to(\d+)", name)[0])
        targets_of.setdefault(source, []).append((target, name))
    return [(source, sorted(targets)) for source, targets in sorted(targets_of.items())]


def _branches(maps: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [maps[name] for name in sorted(maps) if name.startswith("branch/")]


def _tile(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    size = (_WIDTH, max(1, round(height * _WIDTH / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def heat_map(
    values: np.ndarray,
    low: float,
    high: float,
    size: Sequence[int],
    interpolation: int = cv2.INTER_NEAREST,
) -> np.ndarray:
    """Returns values `h' w'` as colors, blue for `low` to red for `high`: `size 3` uint8 RGB."""
    scaled = (255 * np.clip((values - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
    large = cv2.resize(scaled, (size[1], size[0]), interpolation=interpolation)
    return cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)


def blend_over_gray(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns a heat map over the image without its colors, `h w 3` uint8 RGB."""
    gray = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    return cv2.addWeighted(heat, _OPACITY, gray, 1 - _OPACITY, 0)


def feature_figures(
    image: np.ndarray, maps: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """The figures of "branches" and, of a gated network, "gates"."""
    yield "branches", branch_figure(image, maps)
    if any(name.startswith("gate/") for name in maps):
        yield "gates", gate_figure(image, maps)
