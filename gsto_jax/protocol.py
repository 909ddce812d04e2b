"""How a picture is scored in a test: scales, mirror image, windows (paper, section 4.3).

A protocol lays windows over a picture. What a window shows, and what its scores are worth at each
pixel of the picture, are two resamplings with the corners' coordinates and weights as plain arrays:
so one compiled program serves pictures of every size (`gsto_jax.inference`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gsto_jax.errors import UserError

Size = tuple[int, int]
WINDOWS = ("whole", "slide", "slide_enlarged")
EDGES = ("pad", "shift")
SCORES = ("exp", "softmax")


@dataclass(frozen=True)
class Taps:
    """Linear resampling along one axis: `out[n] = sum_t weight[n, t] * x[index[n, t]]`.

    Attributes:
      index: `n t` int32, t 1 or 2.
      weight: `n t` float32; both 0 where `out` lies outside what is sampled.
    """

    index: np.ndarray
    weight: np.ndarray

    def padded(self, length: int) -> "Taps":
        """The same, with outputs of weight 0 after the last."""
        more = ((0, length - len(self.index)), (0, 0))
        return Taps(np.pad(self.index, more), np.pad(self.weight, more))


@dataclass(frozen=True)
class View:
    """One window over a picture.

    Attributes:
      shape: (h, w) of the window.
      rows, columns: from the picture to the window.
      back_rows, back_columns: from the window's scores to the picture; where windows overlap, each
        counts as one of so many.
    """

    shape: Size
    rows: Taps
    columns: Taps
    back_rows: Taps
    back_columns: Taps

    def arrays(self, canvas: Size) -> dict[str, dict[str, np.ndarray]]:
        """What the device needs, for a picture in the top left corner of a canvas."""
        taps = {
            "rows": self.rows,
            "columns": self.columns,
            "back_rows": self.back_rows.padded(canvas[0]),
            "back_columns": self.back_columns.padded(canvas[1]),
        }
        return {k: {"index": v.index, "weight": v.weight} for k, v in taps.items()}

    def without_score(self) -> "View":
        """The same window, counting for nothing."""
        nothing = Taps(self.back_rows.index, np.zeros_like(self.back_rows.weight))
        return View(self.shape, self.rows, self.columns, nothing, self.back_columns)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A test protocol.

    Attributes:
      scales: the scores of all of them are summed.
      flip: averages the logits with those of the mirror image.
      window: "whole": one window, all of the scaled picture; "slide": windows of `crop` side by
        side; "slide_enlarged": whole up to scale 1, windows above.
      crop: (h, w) of a sliding window.
      stride: of the windows, as a share of the crop.
      edge: what the last windows do: "pad" sticks out of the picture, "shift" moves inside.
      pad: RGB in 0..1 of what lies outside the picture.
      score: "exp" of the logits, as published, or "softmax".
      base_size: long side at scale 1; 0: the picture's own.
      fixed_size: (h, w) at scale 1 whatever the proportions; (0, 0): as base_size says.
      multiple: sides at every scale are rounded up to multiples of it, so that pictures of many
        sizes share few programs.
      flip_pairs: classes that change places in a mirrored picture.

    Raises:
      UserError: a value that cannot work.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: str = "whole"
    crop: Size = (0, 0)
    stride: float = 2 / 3
    edge: str = "pad"
    pad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    score: str = "exp"
    base_size: int = 0
    fixed_size: Size = (0, 0)
    multiple: int = 1
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("scales", "crop", "fixed_size", "pad"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "flip_pairs", tuple(map(tuple, self.flip_pairs)))
        for name, choices in (("window", WINDOWS), ("edge", EDGES), ("score", SCORES)):
            value = getattr(self, name)
            _require(value in choices, name, value, f"use one of {', '.join(choices)}")
        _require(
            bool(self.scales) and all(scale > 0 for scale in self.scales),
            "scales",
            self.scales,
            "give positive numbers",
        )
        _require(0 < self.stride <= 1, "stride", self.stride, "use a share of the crop, above 0")
        _require(
            self.window == "whole" or (len(self.crop) == 2 and min(self.crop) > 0),
            "crop",
            self.crop,
            "give height and width of the sliding windows",
        )

    def __str__(self) -> str:
        """In words, for tables and records."""
        scales = " ".join(f"{scale:g}" for scale in self.scales)
        words = [f"scale{'s' if len(self.scales) > 1 else ''} {scales}"]
        if self.flip:
            words.append("flip")
        if self.window != "whole":
            words.append(f"{self.window} {self.crop[0]}x{self.crop[1]} by {self.stride:.3g}")
        if self.score != "exp":
            words.append(self.score)
        return " + ".join(words)

    def is_plain(self, sizes: Iterable[Size]) -> bool:
        """Whether it comes to one look at pictures of these sizes as they are."""
        once = self.scales == (1.0,) and not self.flip and not self._slides(1.0)
        return once and all(self.scaled(size, 1.0) == size for size in set(sizes))

    @property
    def suits_any_canvas(self) -> bool:
        """Whether a picture's scores are the same on a larger canvas: no window ends with it."""
        return self.window == "slide" or any(self.fixed_size)

    def scaled(self, size: Size, scale: float) -> Size:
        """Height and width of a picture at a scale."""
        if any(self.fixed_size):
            exact = [side * scale for side in self.fixed_size]
        else:
            target = int((self.base_size or max(size)) * scale + 0.5)
            exact = [side * target / max(size) for side in size]
        height, width = (
            -(-max(1, int(side + 0.5)) // self.multiple) * self.multiple for side in exact
        )
        return height, width

    def rounds(self, sizes: Iterable[Size]) -> list["Round"]:
        """What pictures of these sizes need to be looked at together: the same for all of them."""
        sizes = set(sizes)
        found = []
        for scale in self.scales:
            scaled = [self.scaled(size, scale) for size in sizes]
            taps = 1 if all(self.scaled(size, scale) == size for size in sizes) else 2
            if self._slides(scale):
                shape = self.crop
                counts = [
                    len(self._starts(height, 0)) * len(self._starts(width, 1))
                    for height, width in scaled
                ]
                found.append(Round(scale, shape, max(counts), taps))
            else:
                shape = (max(height for height, _ in scaled), max(width for _, width in scaled))
                found.append(Round(scale, shape, 1, taps))
        return found

    def views(self, size: Size, rounds: Iterable["Round"]) -> list[View]:
        """The windows over a picture, as many as the rounds say; those too many count nothing."""
        found = []
        for look in rounds:
            scaled, slides = self.scaled(size, look.scale), self._slides(look.scale)
            rows, columns = (
                _axis(
                    size[n],
                    scaled[n],
                    look.shape[n],
                    self._starts(scaled[n], n) if slides else [0],
                    look.taps,
                )
                for n in (0, 1)
            )
            views = [
                View(look.shape, down, across, back_down, back_across)
                for down, back_down in rows
                for across, back_across in columns
            ]
            found += views + [views[-1].without_score()] * (look.count - len(views))
        return found

    def _slides(self, scale: float) -> bool:
        return self.window == "slide" or (self.window == "slide_enlarged" and scale > 1)

    def _starts(self, length: int, axis: int) -> list[int]:
        step = max(1, int(self.crop[axis] * self.stride))
        return window_starts(length, self.crop[axis], step, self.edge)


@dataclass(frozen=True)
class Round:
    """One scale: how many windows of which shape (h, w), by how many taps (1: none is scaled)."""

    scale: float
    shape: Size
    count: int
    taps: int


def window_starts(length: int, window: int, step: int, edge: str) -> list[int]:
    """Where windows begin along an axis, so that they cover it."""
    count = max(0, math.ceil((length - window) / step)) + 1
    starts = [n * step for n in range(count)]
    last = max(0, length - window)
    return [min(start, last) for start in starts] if edge == "shift" else starts


def linear_taps(source: int, target: int, align_corners: bool = False) -> Taps:
    """Bilinear resampling of an axis, pixel centres at half-integers, without antialiasing.

    With `align_corners` the centres of the outermost pixels coincide.
    """
    if align_corners:
        centre = np.arange(target) * ((source - 1) / max(target - 1, 1))
    else:
        centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    centre = np.clip(centre, 0, source - 1)
    low = np.floor(centre).astype(np.int32)
    index = np.stack([low, np.minimum(low + 1, source - 1)], axis=1)
    upper = (centre - low).astype(np.float32)
    return Taps(index, np.stack([1 - upper, upper], axis=1))


def _axis(
    source: int, target: int, window: int, starts: Sequence[int], taps: int
) -> list[tuple[Taps, Taps]]:
    """For each window along an axis: taps into it, and back out of it."""
    there, back = (
        Taps(found.index[:, :taps], found.weight[:, :taps])
        for found in (linear_taps(source, target), linear_taps(target, source))
    )
    covered = np.zeros(target)
    for start in starts:
        covered[start : start + window] += 1
    share = (1 / covered).astype(np.float32)
    found = []
    for start in starts:
        stop = min(start + window, target)
        into = Taps(there.index[start:stop], there.weight[start:stop]).padded(window)
        inside = (back.index >= start) & (back.index < stop)
        weight = np.where(inside, back.weight * share[back.index], 0)
        index = np.where(inside, back.index - start, 0)
        found.append((into, Taps(index.astype(np.int32), weight.astype(np.float32))))
    return found


def _require(ok: bool, name: str, value: Any, remedy: str) -> None:
    if not ok:
        raise UserError(f"config.eval.{name} is {value!r}: {remedy}")


def mirrored_order(pairs: Iterable[Sequence[int]], count: int) -> np.ndarray:
    """Which of `count` classes or joints each one is in a mirrored picture, where pairs swap."""
    order = np.arange(count)
    for left, right in pairs:
        order[left], order[right] = right, left
    return order


def protocol_of(config: Mapping[str, Any]) -> Protocol:
    """The test protocol that a whole configuration describes (see `gsto_jax.tasks.task_of`).

    Raises:
      UserError: a setting that cannot work.
    """
    chosen, data = config["eval"], config["data"]
    return Protocol(
        scales=chosen["scales"],
        flip=chosen["flip"],
        window=chosen["window"],
        crop=chosen["crop"] if any(chosen["crop"]) else data["crop"],
        stride=chosen["stride"],
        edge=chosen["edge"],
        pad=data["mean"] if chosen["pad"] == "mean" else (0.0, 0.0, 0.0),
        score=chosen["score"],
        base_size=data["base_size"],
        fixed_size=data["fixed_size"],
        flip_pairs=data["flip_pairs"],
    )


PLAIN = Protocol()
"""One look at the picture as it is."""
