"""How an image is scored in a test: scales, mirror image, windows (paper, section 4.3).

A protocol lays windows over an image. What a window shows, and what its scores are worth at each
pixel of the image, are two resamplings with the corners' coordinates and weights as plain arrays:
so one compiled program serves images of every size (`gsto_jax.segmentation.inference`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.ops.padding import PUBLISHED, round_up, scaled_size
from gsto_jax.ops.resample import Taps, linear_taps
from gsto_jax.types import Size

WINDOWS = ("whole", "slide", "slide_upsampled")
EDGES = ("pad", "shift")
SCORES = ("exp", "softmax")


@dataclass(frozen=True)
class View:
    """One window over an image.

    Attributes:
      shape: (h, w) of the window.
      rows, columns: from the image to the window.
      back_rows, back_columns: from the window's scores to the image; where windows overlap, each
        counts as one of so many.
      mirror: for each column of the window, the column of its mirror image: what lies inside the
        image changes places, what lies outside stays to the right. None: all columns change places.
    """

    shape: Size
    rows: Taps
    columns: Taps
    back_rows: Taps
    back_columns: Taps
    mirror: np.ndarray | None = None

    def arrays(self, padded_shape: Size) -> dict[str, Taps | np.ndarray]:
        """What the device needs, for an image in the top left corner of a padded shape."""
        taps: dict[str, Taps | np.ndarray] = {
            "rows": self.rows,
            "columns": self.columns,
            "back_rows": self.back_rows.padded(padded_shape[0]),
            "back_columns": self.back_columns.padded(padded_shape[1]),
        }
        return taps if self.mirror is None else taps | {"mirror": self.mirror}

    def without_score(self) -> "View":
        """The same window, counting for nothing."""
        nothing = Taps(self.back_rows.index, np.zeros_like(self.back_rows.weight))
        return replace(self, back_rows=nothing)


@dataclass(frozen=True, kw_only=True)
class EvalProtocol:
    """A test protocol.

    Attributes:
      scales: the scores of all of them are summed.
      flip: averages the logits with those of the mirror image.
      window: "whole": one window, all of the scaled image; "slide": windows of `crop` side by
        side; "slide_upsampled": whole up to scale 1, windows above.
      crop: (h, w) of a sliding window; rounded up to multiples of `pad_to`.
      stride: of the windows, as a share of the crop.
      edge: what the last windows do: "pad" sticks out of the image, "shift" moves inside.
      pad: RGB in 0..1 of what lies outside the image; None: the image's outermost pixels,
        repeated.
      pad_to: windows that hold the whole image are padded right and below to multiples of so many
        pixels; 0: they are as large as the image, as published.
      score: "exp" of the logits, as published, or "softmax".
      base_size: long side at scale 1; 0: the image's own.
      fixed_size: (h, w) at scale 1 whatever the proportions; (0, 0): as base_size says.
      flip_pairs: classes that change places in a mirrored image.

    Raises:
      UserError: a value that cannot work.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: str = "whole"
    crop: Size = (0, 0)
    stride: float = 2 / 3
    edge: str = "pad"
    pad: tuple[float, float, float] | None = (0.0, 0.0, 0.0)
    pad_to: int = 0
    score: str = "exp"
    base_size: int = 0
    fixed_size: Size = (0, 0)
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("scales", "crop", "fixed_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.pad is not None:
            object.__setattr__(self, "pad", tuple(self.pad))
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
        if self.window != "whole":
            object.__setattr__(self, "crop", round_up(self.crop, self.pad_to))

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
        if self.pad_to > 1:
            words.append(f"padded to {self.pad_to}")
        return " + ".join(words)

    def is_unscaled_single_pass(self, sizes: Iterable[Size]) -> bool:
        """Whether it comes to one look at images of these sizes as they are."""
        return self.is_single_pass and all(self.scaled(size, 1.0) == size for size in set(sizes))

    @property
    def is_single_pass(self) -> bool:
        """Whether the network passes each image once, whole, at scale 1."""
        return self.scales == (1.0,) and not self.flip and not self._slides(1.0)

    @property
    def is_padding_invariant(self) -> bool:
        """Whether padding an image further leaves its scores the same."""
        return self.window == "slide" or any(self.fixed_size)

    def scaled(self, size: Size, scale: float) -> Size:
        """Height and width of an image at a scale."""
        return scaled_size(size, scale, self.base_size, self.fixed_size)

    def padded(self, size: Size) -> Size:
        """Returns the padded shape of an image, or of a scaled one."""
        return round_up(size, self.pad_to)

    def bucket(self, size: Size) -> tuple[Size, ...]:
        """Returns the padded shapes of an image as it is and at each scale where it is seen whole.

        Images that share them go through the same programs, and their scores depend on nothing but
        themselves.
        """
        whole = [scale for scale in self.scales if not self._slides(scale)]
        return (self.padded(size), *(self.padded(self.scaled(size, scale)) for scale in whole))

    def sizes_in_bucket(self, sizes: Iterable[Size], size: Size) -> frozenset[Size]:
        """Returns those sizes of images of a batch's shape that share programs with one of them."""
        if self.is_padding_invariant or not self.pad_to:
            return frozenset(sizes)
        bucket = self.bucket(size)
        return frozenset(other for other in sizes if self.bucket(other) == bucket)

    def scale_plans(self, sizes: Iterable[Size]) -> list["ScalePlan"]:
        """What images of these sizes need to be looked at together: the same for all of them."""
        sizes = set(sizes)
        found = []
        for scale in self.scales:
            scaled = [self.scaled(size, scale) for size in sizes]
            taps = 1 if all(self.scaled(size, scale) == size for size in sizes) else 2
            if self._slides(scale):
                starts = [[self._starts(side, n) for n, side in enumerate(s)] for s in scaled]
                count = max(len(rows) * len(columns) for rows, columns in starts)
                stops = [columns[-1] + self.crop[1] for _, columns in starts]
                shape = self.crop
            else:
                largest = (max(height for height, _ in scaled), max(width for _, width in scaled))
                shape, count = self.padded(largest), 1
                stops = [shape[1]] * len(scaled)
            sticks_out = any(stop > width for stop, (_, width) in zip(stops, scaled, strict=True))
            found.append(ScalePlan(scale, shape, count, taps, sticks_out))
        return found

    def views(self, size: Size, scale_plans: Iterable["ScalePlan"]) -> list[View]:
        """The windows over an image, as many as the plans say; surplus ones weigh nothing."""
        found = []
        for look in scale_plans:
            scaled, slides = self.scaled(size, look.scale), self._slides(look.scale)
            rows, columns = (
                _axis(
                    size[n],
                    scaled[n],
                    look.shape[n],
                    self._starts(scaled[n], n) if slides else [0],
                    look.taps,
                    self.pad is None,
                )
                for n in (0, 1)
            )
            # With `pad_to` the mirror image is padded to the right too, as any image is.
            mirrors = self.flip and self.pad_to > 0 and look.sticks_out
            views = [
                View(look.shape, down, across, back_down, back_across, mirror if mirrors else None)
                for down, back_down, _ in rows
                for across, back_across, mirror in columns
            ]
            found += views + [views[-1].without_score()] * (look.count - len(views))
        return found

    def _slides(self, scale: float) -> bool:
        return self.window == "slide" or (self.window == "slide_upsampled" and scale > 1)

    def _starts(self, length: int, axis: int) -> list[int]:
        step = max(1, int(self.crop[axis] * self.stride))
        return window_starts(length, self.crop[axis], step, self.edge)


@dataclass(frozen=True)
class ScalePlan:
    """One scale of a test.

    Attributes:
      scale: relative to the size of the test.
      shape: (h, w) of its windows.
      count: how many windows there are.
      taps: of the resampling into them; 1: no image is scaled.
      sticks_out: whether a window reaches beyond the right border of an image.
    """

    scale: float
    shape: Size
    count: int
    taps: int
    sticks_out: bool


def window_starts(length: int, window: int, step: int, edge: str) -> list[int]:
    """Where windows begin along an axis, so that they cover it."""
    count = max(0, math.ceil((length - window) / step)) + 1
    starts = [n * step for n in range(count)]
    last = max(0, length - window)
    return [min(start, last) for start in starts] if edge == "shift" else starts


def _axis(
    source: int, target: int, window: int, starts: Sequence[int], taps: int, repeat: bool
) -> list[tuple[Taps, Taps, np.ndarray]]:
    """For each window along an axis: taps into it, and back out of it, and `View.mirror`."""
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
        into = Taps(there.index[start:stop], there.weight[start:stop]).padded(window, repeat)
        inside = (back.index >= start) & (back.index < stop)
        weight = np.where(inside, back.weight * share[back.index], 0)
        index = np.where(inside, back.index - start, 0)
        out = Taps(index.astype(np.int32), weight.astype(np.float32))
        mirror = np.arange(window, dtype=np.int32)
        if not repeat:
            mirror[: stop - start] = mirror[: stop - start][::-1]
        else:  # what is repeated is then the other border
            mirror = np.maximum(stop - start - 1 - mirror, 0)
        found.append((into, out, mirror))
    return found


def _require(ok: bool, name: str, value: Any, remedy: str) -> None:
    if not ok:
        raise UserError(f"config.eval.{name} is {value!r}: {remedy}")


def protocol_from_config(config: Mapping[str, Any]) -> EvalProtocol:
    """The test protocol that a whole configuration describes (see `gsto_jax.runs.tasks.task_of`).

    Raises:
      UserError: a setting that cannot work.
    """
    chosen, data = config["eval"], config["data"]
    return EvalProtocol(
        scales=chosen["scales"],
        flip=chosen["flip"],
        window=chosen["window"],
        crop=chosen["crop"] if any(chosen["crop"]) else data["crop"],
        stride=chosen["stride"],
        edge=chosen["edge"],
        pad={"mean": data["mean"], "black": (0.0, 0.0, 0.0), "edge": None}[chosen["pad"]],
        pad_to=0 if chosen["pad_to"] == PUBLISHED else chosen["pad_to"],
        score=chosen["score"],
        base_size=data["base_size"],
        fixed_size=data["fixed_size"],
        flip_pairs=data["flip_pairs"],
    )


SINGLE_PASS = EvalProtocol()
"""One look at the image as it is."""
