"""Folders on disks and in buckets (object stores). Needs no JAX."""

from gsto_jax.storage.paths import LOCATION, has_scheme, is_location, is_remote, to_path

__all__ = ["LOCATION", "has_scheme", "is_location", "is_remote", "to_path"]
