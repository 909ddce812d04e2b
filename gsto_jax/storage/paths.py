"""Paths from flags and options: local ones, and URLs of buckets such as gs://BUCKET/run."""

import os
import re
from pathlib import Path
from typing import cast

from gsto_jax.errors import UserError

SCHEMES = ("gs", "s3", "az")
"""Schemes that `etils.epath` opens."""
LOCATION = f"a local path or start with {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
"""Valid paths in words, for error messages."""

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
    if not is_location(text):
        raise UserError(f"{name} must be {LOCATION}; got {text!r}")
    if not has_scheme(text):
        return Path(text).expanduser().absolute()
    from etils import epath  # most runs never need it

    return cast(Path, epath.Path(text))


def has_scheme(text: str | os.PathLike[str]) -> bool:
    """Returns whether a text is a URL of any scheme rather than a local path."""
    return _URL.match(os.fspath(text)) is not None


def is_location(text: str | os.PathLike[str]) -> bool:
    """Returns whether a text is a local path, or a URL of a scheme in `SCHEMES`."""
    url = _URL.match(os.fspath(text))
    return url is None or (url[1] in SCHEMES and url[0] == f"{url[1]}://")


def is_remote(path: os.PathLike[str]) -> bool:
    """Returns whether a path is a URL: objects in a bucket, without locks, appends or renaming."""
    return "://" in os.fspath(path)
