"""Class probabilities of a tile, computed in strips, since those of a whole tile may be large."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from gsto_jax.ops.resample import resample_image
from gsto_jax.ops.taps import Taps, linear_taps
from gsto_jax.predict.measures import class_probabilities
from gsto_jax.types import Size


@dataclass(frozen=True)
class TileScores:
    """Scores of a tile, at its size or smaller.

    Attributes:
      scores: `1 h w k`, on the device.
      size: (h, w) of the pixels that the scores cover, to which they are upsampled.
      are_logits: as of `class_probabilities`.
      align_corners: as of `linear_taps`.
    """

    scores: Float[Array, "1 h w k"]
    size: Size
    are_logits: bool = False
    align_corners: bool = False

    def weighted(
        self, rows: Float[np.ndarray, " h"], columns: Float[np.ndarray, " w"]
    ) -> Callable[[int, int], np.ndarray]:
        """Returns a function that computes the weighted probabilities of the rows start..stop.

        Args:
          rows: weight of each row of the tile, of which there may be fewer than `size` has.
          columns: weight of each column, likewise.
        """
        row_taps, column_taps = (
            linear_taps(source, target, self.align_corners)
            for source, target in zip(self.scores.shape[1:3], self.size, strict=True)
        )
        column_taps = _cut(column_taps, slice(len(columns)))

        def read(start: int, stop: int) -> np.ndarray:
            part = slice(start, stop)
            taps = _cut(row_taps, part), column_taps
            strip = _weighted_strip(self.scores, taps, rows[part], columns, self.are_logits)
            return np.array(strip)  # a copy, since JAX arrays are read-only

        return read


def _cut(taps: Taps, outputs: slice) -> Taps:
    return Taps(taps.index[outputs], taps.weight[outputs])


@partial(jax.jit, static_argnames="are_logits")
def _weighted_strip(
    scores: Array, taps: tuple[Taps, Taps], rows: Any, columns: Any, are_logits: bool
) -> Float[Array, "h w k"]:
    probabilities = class_probabilities(resample_image(scores[0], *taps), are_logits)
    return probabilities * (rows[:, None, None] * columns[None, :, None])
