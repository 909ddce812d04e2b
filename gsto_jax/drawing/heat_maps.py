"""Heat maps of feature maps (paper, Figure 1) and of gates."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from gsto_jax.drawing.tiles import GAP, tile_grid, with_caption

_WIDTH = 320  # of a tile, in pixels
_OPACITY = 0.6


def branch_figure(image: np.ndarray, features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draws the image and the channel mean of each branch of the last stage.

    Each branch is scaled to its own range, which the caption states.

    Args:
      image: `h w 3` uint8 RGB.
      features: `h_i w_i` by name, "branch/0" and so on, from
        `gsto_jax.evaluation.forward.feature_maps`; other names are ignored.

    Returns:
      One row of tiles, uint8 RGB.
    """
    thumbnail = _thumbnail(image)
    tiles = [with_caption("image", thumbnail)]
    for n, name in enumerate(sorted(x for x in features if x.startswith("branch/"))):
        values = features[name]
        low, high = float(values.min()), float(values.max())
        text = f"branch {n}, {values.shape[1]}x{values.shape[0]}: {low:.2f} to {high:.2f}"
        tiles.append(with_caption(text, heat_map(values, low, high, thumbnail.shape[:2])))
    return tile_grid([tiles])


def split_branch_figure(figure: np.ndarray) -> list[np.ndarray]:
    """Splits a `branch_figure` into its captioned tiles."""
    starts = range(0, figure.shape[1], _WIDTH + GAP)
    return [figure[:, x : x + _WIDTH] for x in starts]


def gate_figure(image: np.ndarray, features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draws gates over the image, from blue (smallest) to red (1, or 2 for gates above 1).

    The first row has the image and the gates of the GTMs or of the context module, each at the
    resolution of its input. The rows below have the GFM gates of the last module, one row per
    source branch and one column per target branch.

    Args:
      image: `h w 3` uint8 RGB.
      features: `h_i w_i` in 0..1 or 0..2 by name, "gate/NAME", from
        `gsto_jax.evaluation.forward.feature_maps`; other names are ignored.

    Returns:
      Rows of tiles, uint8 RGB.
    """
    gates = {k.removeprefix("gate/"): v for k, v in features.items() if k.startswith("gate/")}
    # Released gates end in ReLU and sigmoid, so they lie in [0.5, 1).
    low = 0.5 if min(float(gate.min()) for gate in gates.values()) >= 0.5 else 0.0
    high = 2.0 if max(float(gate.max()) for gate in gates.values()) > 1 else 1.0
    thumbnail = _thumbnail(image)

    def gate_tile(name: str, text: str) -> np.ndarray:
        gate = gates[name]
        blended = blend_over_gray(thumbnail, heat_map(gate, low, high, thumbnail.shape[:2]))
        return with_caption(f"{text}: {gate.min():.2f} to {gate.max():.2f}", blended)

    gtms = [name for name in sorted(gates) if name.startswith("transition")]
    rows = [
        [
            with_caption(f"image; gates from {low:g} (blue) to {high:g} (red)", thumbnail),
            *(gate_tile(name, f"GTM, {name}") for name in gtms),
            *(gate_tile(name, name) for name in gates if name.startswith("context/")),
        ]
    ]
    gfms = [name for name in gates if "/gate" in name]
    if gfms:
        last = max(name.rpartition("/")[0] for name in gfms)
        by_source = _gates_by_source([name for name in gfms if name.startswith(last)])
        for source, targets in by_source:
            rows.append(
                [gate_tile(name, f"{last}, {source} to {target}") for target, name in targets]
            )
    return tile_grid(rows)


def _gates_by_source(names: Sequence[str]) -> list[tuple[int, list[tuple[int, str]]]]:
    """Returns (source, [(target, name), ...]) of names such as "gate0_to1", sorted."""
    by_source = defaultdict(list)
    for name in names:
        source, target = map(int, re.findall(r"gate(\d+)_to(\d+)", name)[0])
        by_source[source].append((target, name))
    return [(source, sorted(targets)) for source, targets in sorted(by_source.items())]


def _thumbnail(image: np.ndarray) -> np.ndarray:
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
    """Maps values `h' w'` to colors, blue for `low` to red for `high`: `size 3` uint8 RGB."""
    scaled = (255 * np.clip((values - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
    resized = cv2.resize(scaled, (size[1], size[0]), interpolation=interpolation)
    return cv2.cvtColor(cv2.applyColorMap(resized, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)


def blend_over_gray(image: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Blends a heat map with the gray version of an image: `h w 3` uint8 RGB."""
    gray = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    return cv2.addWeighted(colors, _OPACITY, gray, 1 - _OPACITY, 0)


def feature_figures(
    image: np.ndarray, features: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields ("branches", figure) and, for a gated network, ("gates", figure)."""
    yield "branches", branch_figure(image, features)
    if any(name.startswith("gate/") for name in features):
        yield "gates", gate_figure(image, features)
