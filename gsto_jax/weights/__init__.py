"""Parameters and running statistics under the names that other implementations give them."""

from gsto_jax.weights.files import SUFFIXES, read_state
from gsto_jax.weights.formats import (
    BODY_FORMAT,
    FORMATS,
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    POSE_FORMAT,
    RESNET_FORMAT,
    Format,
    format_for,
    format_of,
    upsampling_note,
)
from gsto_jax.weights.prefixes import AUTO, locate
from gsto_jax.weights.reference import Match, from_reference, match, to_reference
from gsto_jax.weights.transfer import Imported, export_weights, import_weights

__all__ = [
    "AUTO",
    "BODY_FORMAT",
    "FORMATS",
    "GSTO_FORMAT",
    "HRNET_FORMAT",
    "IMAGENET_FORMAT",
    "POSE_FORMAT",
    "RESNET_FORMAT",
    "SUFFIXES",
    "Format",
    "Imported",
    "Match",
    "export_weights",
    "format_for",
    "format_of",
    "from_reference",
    "import_weights",
    "locate",
    "match",
    "read_state",
    "to_reference",
    "upsampling_note",
]
