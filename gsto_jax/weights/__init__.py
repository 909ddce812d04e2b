"""Parameters and running statistics under the names that other implementations give them."""

from gsto_jax.weights.reference import (
    GSTO_FORMAT,
    HRNET_FORMAT,
    POSE_FORMAT,
    Format,
    from_reference,
    to_reference,
)

__all__ = ["GSTO_FORMAT", "HRNET_FORMAT", "POSE_FORMAT", "Format", "from_reference", "to_reference"]
