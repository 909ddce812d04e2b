"""Loss hyperparameters as arguments of the compiled step."""

from typing import Any

from flax import struct

from gsto_jax.config import LossConfig


@struct.dataclass
class LossValues:
    """The numbers of `LossConfig`.

    Attributes:
      by_stage: weight of each head.
      ohem_threshold: probability below which a pixel is hard.
      ohem_min_kept: minimum number of hard pixels per image.
    """

    by_stage: dict[str, Any]
    ohem_threshold: Any
    ohem_min_kept: Any

    @classmethod
    def of(cls, config: LossConfig) -> "LossValues":
        """Returns the numbers as the config has them."""
        return cls(config.by_stage, config.ohem_threshold, config.ohem_min_kept)
