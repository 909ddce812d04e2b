"""Settings of the loss, for the tests that compute one."""

from gsto_jax.config import LossConfig


def loss_config(**changes):
    """The published weights of the heads, with changes."""
    values = {
        "terms": (("ce", 1.0),),
        "stage_weights": (0.2, 0.3, 0.5, 1.0),
        "context_weight": 0.4,
        "class_weights": False,
        "ohem_threshold": 0.9,
        "ohem_min_kept": 100,
    }
    return LossConfig(**values | changes)
