"""Networks by name, with weights of any kind, and folders for the Hugging Face hub."""

from gsto_jax.hub.create import create_model
from gsto_jax.hub.names import list_models

__all__ = ["create_model", "list_models"]
