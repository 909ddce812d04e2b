"""Folders on disks and in buckets (object stores). Needs no JAX."""

from gsto_jax.storage.errors import bucket_error_message, error_reason
from gsto_jax.storage.json_file import write_json
from gsto_jax.storage.objects import (
    file_size,
    is_folder,
    list_names,
    local_copy,
    open_header,
    read_file,
    walk_objects,
)
from gsto_jax.storage.paths import (
    LOCATION,
    has_scheme,
    is_location,
    is_remote,
    join_path,
    to_path,
    to_run_path,
)

__all__ = [
    "LOCATION",
    "bucket_error_message",
    "error_reason",
    "file_size",
    "has_scheme",
    "is_folder",
    "is_location",
    "is_remote",
    "join_path",
    "list_names",
    "local_copy",
    "open_header",
    "read_file",
    "to_path",
    "to_run_path",
    "walk_objects",
    "write_json",
]
