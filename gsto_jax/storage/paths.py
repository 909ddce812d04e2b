"""Paths from flags and options: local ones, and URLs of buckets such as gs://BUCKET/run."""

import importlib.util
import logging
import os
import re
from pathlib import Path
from typing import cast

from gsto_jax.errors import UserError
from gsto_jax.files import is_remote as is_remote

SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""Packages of the schemes that `etils.epath` opens."""
LOCATION = f"a local path or start with {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
"""Valid paths in words, for error messages."""

# Where TensorFlow is installed, etils would read buckets with TensorFlow's client instead of gcsfs,
# and it decides once per process, at the first path of any kind.
os.environ.setdefault("EPATH_USE_TF", "false")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")


def to_path(text: str | os.PathLike[str], name: str) -> Path:
    """Returns the path that a flag or option names.

    Args:
      text: local path, absolute or not, with "~" for the home folder; or a URL.
      name: flag or option, for error messages, such as "--workdir".

    Returns:
      A `pathlib.Path` that is absolute; for URLs an `etils.epath.Path`, which has the same methods.

    Raises:
      UserError: the scheme of the URL is not in `SCHEMES`, or its package is not installed.
    """
    if not is_location(text):
        raise UserError(f"{name} must be {LOCATION}; got {text!r}")
    if not has_scheme(text):
        return Path(text).expanduser().absolute()
    _prepare_client(text, name)
    from etils import epath  # most runs never need it

    return cast(Path, epath.Path(text))


def to_run_path(text: str | os.PathLike[str], name: str) -> Path:
    """Returns the path of a run or checkpoint; see `to_path`.

    Raises:
      UserError: see `to_path`; or the URL has a scheme to which orbax writes no checkpoints.
    """
    if has_scheme(text) and is_location(text) and not os.fspath(text).startswith("gs://"):
        raise UserError(
            f"{name} must be a local path or start with gs://, since orbax stores checkpoints "
            f"nowhere else; got {text!r}"
        )
    return to_path(text, name)


def has_scheme(text: str | os.PathLike[str]) -> bool:
    """Returns whether a text is a URL of any scheme rather than a local path."""
    return _URL.match(os.fspath(text)) is not None


def is_location(text: str | os.PathLike[str]) -> bool:
    """Returns whether a text is a local path, or a URL of a scheme in `SCHEMES`."""
    url = _URL.match(os.fspath(text))
    return url is None or (url[1] in SCHEMES and url[0] == f"{url[1]}://")


def join_path(root: Path, text: str, name: str) -> Path:
    """Returns a path below a root, or the path itself if it is absolute or a URL.

    A URL joined with an absolute path by "/" depends on the version of Python.

    Args:
      root: local folder, or one in a bucket.
      text: the path.
      name: name of its flag or option, for messages.
    """
    if has_scheme(text) or os.path.isabs(text):
        return to_path(text, name)
    return root / text


def _prepare_client(url: str | os.PathLike[str], name: str) -> None:
    """Sets options of a bucket's client. Raises UserError if it is not installed."""
    scheme = os.fspath(url).partition(":")[0]
    package = SCHEMES[scheme]
    if importlib.util.find_spec(package) is None:
        install = "'gsto-jax[gcs]'" if scheme == "gs" else package
        raise UserError(
            f"{name}={os.fspath(url)} needs the package {package}: pip install {install}"
        )
    import fsspec.config

    # Other hosts write to the same folder, and by default a listing is kept for ever.
    for protocol in ("gcs", scheme):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    # It logs each failed request with a traceback, and raises it as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
