"""Errors of buckets as messages for the user.

The clients of buckets repeat requests that fail temporarily (gcsfs six times within half a minute,
tensorstore for longer), so an error that reaches this module is final.
"""

import sys
from pathlib import Path

from gsto_jax.errors import UserError
from gsto_jax.files import is_remote

_CLIENTS = ("gcsfs", "s3fs", "adlfs")
"""Packages of which one is imported in a process that uses a bucket."""
_NETWORK_PACKAGES = (
    *("google.api_core", "google.auth", "google.cloud"),
    *("aiohttp", "requests", "urllib3"),
)
"""Packages whose exceptions are those of a connection or of credentials."""
_REFUSED = ("Forbidden:", "PERMISSION_DENIED", "UNAUTHENTICATED", "AccessDenied")
_UNAVAILABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED")
"""Words in messages of tensorstore."""
_HINT = (
    "Let the account of this machine read and write the bucket (on Google Cloud the roles "
    "storage.objectAdmin and storage.bucketViewer), or log in (gcloud auth application-default "
    "login), and rerun the command"
)


def is_refused(error: BaseException) -> bool:
    """Returns whether a bucket refused a request for lack of permission or credentials."""
    if isinstance(error, UserError):
        return False
    is_auth = type(error).__module__.startswith("google.auth")
    return is_auth or _status(error) in (401, 403) or _contains(error, _REFUSED)


def is_unavailable(error: BaseException) -> bool:
    """Returns whether a bucket did not answer, although the request was repeated."""
    if isinstance(error, UserError):
        return False
    status = _status(error)
    return (
        status in (408, 429)
        or status >= 500
        or _is_of_network(error)
        or isinstance(error, ConnectionError | TimeoutError)
        or _contains(error, _UNAVAILABLE)
    )


def bucket_error_message(error: BaseException, path: Path | None = None) -> str | None:
    """Returns a message for the user about an error of a bucket; None for any other error.

    Args:
      error: exception of a client of buckets.
      path: what was read or written; None is returned for a local path. If it is not known, only
        errors of gcsfs and of connections to a bucket get a message.
    """
    if not (_is_of_client(error) if path is None else is_remote(path)):
        return None
    bucket = f"the bucket of {path}" if path is not None else "the bucket"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if is_refused(error):
        return f"{bucket} refused access ({reason}). {_HINT}"
    if is_unavailable(error):
        return (
            f"{bucket} did not answer, although the request was repeated ({reason}). Rerun the "
            "command when the bucket can be reached"
        )
    if path is not None and isinstance(error, FileNotFoundError):
        return f"{path} or its bucket does not exist ({reason})"
    return None


def error_reason(error: OSError) -> str:
    """Returns why a file cannot be read or written, also if a client of buckets raised the error.

    These raise errors without number, whose text is the path.
    """
    if error.strerror:
        return error.strerror
    missing = isinstance(error, FileNotFoundError)
    return "No such file or directory" if missing else str(error) or type(error).__name__


def _is_of_client(error: BaseException) -> bool:
    if not any(name in sys.modules for name in _CLIENTS):
        return False  # the error of a tracker's server, for instance
    return bool(_status(error)) or _is_of_network(error) or _contains(error, _REFUSED[:1])


def _is_of_network(error: BaseException) -> bool:
    module = f"{type(error).__module__}."
    return module.startswith(tuple(f"{package}." for package in _NETWORK_PACKAGES))


def _status(error: BaseException) -> int:
    """Returns the status of an HTTP error of gcsfs or of Google's client; 0 for other errors."""
    is_http = type(error).__name__ == "HttpError"
    if not is_http and not type(error).__module__.startswith("google.api_core"):
        return 0
    try:
        return int(getattr(error, "code", None) or 0)
    except (TypeError, ValueError):
        return 0


def _contains(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error)[:500]
    return any(word in text for word in words)
