"""Paths from flags and options: local ones, and URLs of buckets such as gs://BUCKET/run."""

import os
import re
from pathlib import Path
from typing import cast

from gsto_jax.errors import UserError

SCHEMES = ("gs", "s3", "az")
"""Schemes that `etils.epath` opens."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")


def to_path(text: str | os.PathLike[str], name: str) -> Path:
    """Returns the path that a flag or option names.

    Args:
      text: local path, absolute or not, with "~" for the home folder; or a URL.
      name: flag or option, for error messages, such as "--workdir".

    Returns:
      A `pathlib.Path` that is absolute; for URLs an `etils.epath.Path`, which has the same methods.

    Raises:
      UserError: the scheme of the URL is not in `SCHEMES`.
    """
    url = _URL.match(os.fspath(text))
    if url is None:
        return Path(text).expanduser().absolute()
    if url[1] not in SCHEMES or not url[0].endswith("://"):
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UserError(f"{name} must be a local path or start with {schemes}; got {text!r}")
    from etils import epath  # most runs never need it

    return cast(Path, epath.Path(text))


def is_remote(path: os.PathLike[str]) -> bool:
    """Returns whether a path is a URL: objects in a bucket, without locks, appends or renaming."""
    return "://" in os.fspath(path)
