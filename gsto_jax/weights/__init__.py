"""Imports and exports weights of other implementations."""

from gsto_jax.weights.conversion import LoadResult, from_state_dict, to_state_dict
from gsto_jax.weights.files import WEIGHT_WRITERS, read_state_dict
from gsto_jax.weights.formats import (
    BODY_FORMAT,
    FORMATS,
    GSTO_CLASSIFICATION_FORMAT,
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    OCR_FORMAT,
    POSE_FORMAT,
    RESNET_FORMAT,
    WeightFormat,
    detect_format,
    export_format,
    option_notes,
)
from gsto_jax.weights.import_export import ImportedWeights, export_weights, import_weights
from gsto_jax.weights.prefixes import AUTO, locate_network
from gsto_jax.weights.transfer import transfer, transfer_network

__all__ = [
    "AUTO",
    "BODY_FORMAT",
    "FORMATS",
    "GSTO_CLASSIFICATION_FORMAT",
    "GSTO_FORMAT",
    "HRNET_FORMAT",
    "IMAGENET_FORMAT",
    "OCR_FORMAT",
    "POSE_FORMAT",
    "RESNET_FORMAT",
    "WEIGHT_WRITERS",
    "ImportedWeights",
    "LoadResult",
    "WeightFormat",
    "detect_format",
    "export_format",
    "export_weights",
    "from_state_dict",
    "import_weights",
    "locate_network",
    "option_notes",
    "read_state_dict",
    "to_state_dict",
    "transfer",
    "transfer_network",
]
