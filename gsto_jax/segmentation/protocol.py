"""Test-time protocols: multiple scales, flip and sliding windows (paper, section 4.3).

A protocol covers an image with windows. The resampling from image to window, and from window scores
back to the image, have their indices and weights as array arguments, so one compiled program serves
all image sizes (`gsto_jax.segmentation.inference`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.ops.sizes import PUBLISHED, round_up, scaled_size
from gsto_jax.ops.taps import Taps, linear_taps
from gsto_jax.types import Size

WINDOWS = ("whole", "slide", "slide_upsampled")
EDGES = ("pad", "shift")
SCORES = ("exp", "softmax")


@dataclass(frozen=True)
class View:
    """A test-time view: one window on an image at one scale.

    Attributes:
      shape: (h, w) of the window.
      rows, columns: resampling from the image to the window.
      score_rows, score_columns: resampling from the window's scores to the image; overlapping
        windows have equal weights that sum to 1.
      flip_index: `w` int32, source column of each column of the flipped window: columns inside the
        image are reversed, padding stays on the right. None reverses all columns.
    """

    shape: Size
    rows: Taps
    columns: Taps
    score_rows: Taps
    score_columns: Taps
    flip_index: np.ndarray | None = None

    def arrays(self, padded_shape: Size) -> dict[str, Taps | np.ndarray]:
        """Returns the arrays of the view, for an image in the top left of a padded shape."""
        arrays: dict[str, Taps | np.ndarray] = {
            "rows": self.rows,
            "columns": self.columns,
            "score_rows": self.score_rows.padded(padded_shape[0]),
            "score_columns": self.score_columns.padded(padded_shape[1]),
        }
        return arrays if self.flip_index is None else arrays | {"flip_index": self.flip_index}

    def with_zero_weight(self) -> "View":
        """Returns the same window with scores of weight 0."""
        zero = Taps(self.score_rows.index, np.zeros_like(self.score_rows.weight))
        return replace(self, score_rows=zero)


@dataclass(frozen=True)
class ScalePlan:
    """The windows of one scale, for images that share programs.

    Attributes:
      scale: relative to the size of the test.
      shape: (h, w) of the windows.
      count: number of windows per image.
      taps: taps per pixel of the resampling into the windows; 1 if no image is scaled.
      exceeds_width: whether a window extends beyond the right edge of an image.
    """

    scale: float
    shape: Size
    count: int
    taps: int
    exceeds_width: bool


@dataclass(frozen=True, kw_only=True)
class EvalProtocol:
    """A test-time protocol.

    Attributes:
      scales: relative sizes of the image; scores are summed over scales.
      flip: averages the logits with the logits of the flipped image.
      window: "whole" passes the scaled image at once; "slide" passes sliding windows of `crop`;
        "slide_upsampled" slides only at scales above 1.
      crop: (h, w) of the sliding windows, rounded up to multiples of `pad_to`.
      stride: stride of the sliding windows, as a fraction of the crop.
      edge: last windows at the image border: "pad" extends past it, "shift" moves them inside.
      pad: color in 0..1 of the padding, one value per channel; None replicates the border pixels.
      pad_to: whole images are padded at the right and bottom to multiples of this; 0 pads nothing,
        as published.
      score: "exp" of the logits, as published, or "softmax".
      base_size: long side at scale 1, in pixels; 0 keeps the size of the image.
      fixed_size: (h, w) at scale 1, which ignores the aspect ratio; (0, 0) uses `base_size`.
      flip_pairs: classes that are swapped in the flipped image.

    Raises:
      UserError: an invalid value.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: str = "whole"
    crop: Size = (0, 0)
    stride: float = 2 / 3
    edge: str = "pad"
    pad: tuple[float, ...] | None = (0.0, 0.0, 0.0)
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
        has_crop = len(self.crop) == 2 and min(self.crop) > 0
        for name, valid, expected in (
            ("window", self.window in WINDOWS, f"one of {', '.join(WINDOWS)}"),
            ("edge", self.edge in EDGES, f"one of {', '.join(EDGES)}"),
            ("score", self.score in SCORES, f"one of {', '.join(SCORES)}"),
            ("scales", self.scales and min(self.scales) > 0, "positive numbers"),
            ("stride", 0 < self.stride <= 1, "a fraction of the crop in (0, 1]"),
            ("crop", self.window == "whole" or has_crop, "the (h, w) of the sliding windows"),
        ):
            if not valid:
                raise UserError(f"eval.{name} must be {expected}; got {getattr(self, name)!r}")
        if self.window != "whole":
            object.__setattr__(self, "crop", round_up(self.crop, self.pad_to))

    def __str__(self) -> str:
        """Returns a description for tables and records."""
        scales = " ".join(f"{scale:g}" for scale in self.scales)
        parts = [f"scale{'s' if len(self.scales) > 1 else ''} {scales}"]
        if self.flip:
            parts.append("flip")
        if self.window != "whole":
            parts.append(f"{self.window} {self.crop[0]}x{self.crop[1]} by {self.stride:.3g}")
        if self.score != "exp":
            parts.append(self.score)
        if self.pad_to > 1:
            parts.append(f"padded to {self.pad_to}")
        return " + ".join(parts)

    def is_unscaled_single_pass(self, sizes: Iterable[Size]) -> bool:
        """Returns whether images of these sizes pass the network once, at their own size."""
        return self.is_single_pass and all(self.scaled(size, 1.0) == size for size in set(sizes))

    @property
    def is_single_pass(self) -> bool:
        """Whether each image passes the network once, whole and at scale 1."""
        return self.scales == (1.0,) and not self.flip and not self._slides(1.0)

    @property
    def is_padding_invariant(self) -> bool:
        """Whether scores are independent of the padded shape."""
        return self.window == "slide" or any(self.fixed_size)

    def scaled(self, size: Size, scale: float) -> Size:
        """Returns (h, w) of an image at a scale."""
        return scaled_size(size, scale, self.base_size, self.fixed_size)

    def padded(self, size: Size) -> Size:
        """Returns the padded shape of an image of this size."""
        return round_up(size, self.pad_to)

    def bucket(self, size: Size) -> tuple[Size, ...]:
        """Returns the padded shapes of an image: unscaled, and at each scale without windows.

        Images of equal buckets share programs, and their scores do not depend on the batch.
        """
        scales = [scale for scale in self.scales if not self._slides(scale)]
        return (self.padded(size), *(self.padded(self.scaled(size, scale)) for scale in scales))

    def sizes_in_bucket(self, sizes: Iterable[Size], size: Size) -> frozenset[Size]:
        """Returns the image sizes of a padded shape that share programs with `size`."""
        if self.is_padding_invariant or not self.pad_to:
            return frozenset(sizes)
        bucket = self.bucket(size)
        return frozenset(other for other in sizes if self.bucket(other) == bucket)

    def scale_plans(self, sizes: Iterable[Size]) -> list[ScalePlan]:
        """Returns the plan of each scale that images of all these sizes share."""
        sizes = set(sizes)
        plans = []
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
            exceeds = any(stop > width for stop, (_, width) in zip(stops, scaled, strict=True))
            plans.append(ScalePlan(scale, shape, count, taps, exceeds))
        return plans

    def views(self, size: Size, plans: Iterable[ScalePlan]) -> list[View]:
        """Returns the views of an image, padded to the plans' counts by views of zero weight."""
        views = []
        for plan in plans:
            scaled, slides = self.scaled(size, plan.scale), self._slides(plan.scale)
            row_views, column_views = (
                _axis_views(
                    source=size[n],
                    target=scaled[n],
                    window=plan.shape[n],
                    starts=self._starts(scaled[n], n) if slides else [0],
                    taps=plan.taps,
                    replicate=self.pad is None,
                )
                for n in (0, 1)
            )
            # With `pad_to` the padding of the flipped image is on the right as well.
            keeps_padding = self.flip and self.pad_to > 0 and plan.exceeds_width
            scale_views = [
                View(
                    shape=plan.shape,
                    rows=rows,
                    columns=columns,
                    score_rows=score_rows,
                    score_columns=score_columns,
                    flip_index=flip_index if keeps_padding else None,
                )
                for rows, score_rows, _ in row_views
                for columns, score_columns, flip_index in column_views
            ]
            surplus = plan.count - len(scale_views)
            views += scale_views + [scale_views[-1].with_zero_weight()] * surplus
        return views

    def _slides(self, scale: float) -> bool:
        return self.window == "slide" or (self.window == "slide_upsampled" and scale > 1)

    def _starts(self, length: int, axis: int) -> list[int]:
        step = max(1, int(self.crop[axis] * self.stride))
        return window_starts(length, self.crop[axis], step, self.edge)


def window_starts(length: int, window: int, step: int, edge: str) -> list[int]:
    """Returns the first pixels of windows that cover an axis."""
    count = max(0, math.ceil((length - window) / step)) + 1
    starts = [n * step for n in range(count)]
    last = max(0, length - window)
    return [min(start, last) for start in starts] if edge == "shift" else starts


def _axis_views(
    *, source: int, target: int, window: int, starts: Sequence[int], taps: int, replicate: bool
) -> list[tuple[Taps, Taps, np.ndarray]]:
    """Returns for each window along an axis: taps into it, taps out of it, and the flip index."""
    into, inverse = (
        Taps(both.index[:, :taps], both.weight[:, :taps])
        for both in (linear_taps(source, target), linear_taps(target, source))
    )
    coverage = np.zeros(target)
    for start in starts:
        coverage[start : start + window] += 1
    fraction = (1 / coverage).astype(np.float32)
    views = []
    for start in starts:
        stop = min(start + window, target)
        window_taps = Taps(into.index[start:stop], into.weight[start:stop])
        inside = (inverse.index >= start) & (inverse.index < stop)
        weight = np.where(inside, inverse.weight * fraction[inverse.index], 0)
        index = np.where(inside, inverse.index - start, 0)
        score_taps = Taps(index.astype(np.int32), weight.astype(np.float32))
        flip_index = np.arange(window, dtype=np.int32)
        if replicate:  # the padding replicates the other border
            flip_index = np.maximum(stop - start - 1 - flip_index, 0)
        else:
            flip_index[: stop - start] = flip_index[: stop - start][::-1]
        views.append((window_taps.padded(window, replicate), score_taps, flip_index))
    return views


def protocol_from_config(config: Mapping[str, Any]) -> EvalProtocol:
    """Returns the test protocol of a config, as plain values.

    Raises:
      UserError: an invalid option.
    """
    evaluation, data = config["eval"], config["data"]
    mean = data["mean"]
    return EvalProtocol(
        **{key: evaluation[key] for key in ("scales", "flip", "window", "stride", "edge", "score")},
        **{key: data[key] for key in ("base_size", "fixed_size", "flip_pairs")},
        crop=evaluation["crop"] if any(evaluation["crop"]) else data["crop"],
        pad={"mean": mean, "black": (0.0,) * len(mean), "edge": None}[evaluation["pad"]],
        pad_to=0 if evaluation["pad_to"] == PUBLISHED else evaluation["pad_to"],
    )


SINGLE_PASS = EvalProtocol()
"""One pass per image, at its own size."""
