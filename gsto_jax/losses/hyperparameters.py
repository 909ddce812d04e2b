"""Loss hyperparameters as arguments of the compiled step."""

from typing import Any

from flax import struct

from gsto_jax.config import LossConfig


@struct.dataclass
class LossHyperparameters:
    """Options of `LossConfig` that compiled steps take as arguments, as numbers or traced scalars.

    Attributes:
      head_weights: weight of each head's loss.
      ohem_threshold: probability below which a pixel is hard.
      ohem_min_kept: minimum number of hard pixels per image.
    """

    head_weights: dict[str, Any]
    ohem_threshold: Any
    ohem_min_kept: Any

    @classmethod
    def from_config(cls, config: LossConfig) -> "LossHyperparameters":
        """Returns the values of a config."""
        return cls(config.head_weights, config.ohem_threshold, config.ohem_min_kept)
