"""Errors of buckets as messages for the user.

The clients of buckets repeat requests that fail temporarily (gcsfs six times within half a minute,
tensorstore for longer), so an error that reaches this module is final.
"""

from gsto_jax.errors import UserError

_CLIENT_PACKAGES = frozenset(
    ("adlfs", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3")
)
"""Packages whose exceptions are those of a bucket."""
_REFUSED = ("Forbidden", "PERMISSION_DENIED", "UNAUTHENTICATED", "AccessDenied")
_HINT = (
    "Let the account of this machine read and write the bucket (on Google Cloud the role "
    "storage.objectAdmin), or log in (gcloud auth application-default login), and rerun the command"
)


def is_refused(error: BaseException) -> bool:
    """Returns whether a bucket refused a request for lack of permission."""
    text = str(error)
    if isinstance(error, UserError):
        return False
    if getattr(error, "code", None) in (401, 403) or isinstance(error, PermissionError):
        return _is_of_bucket(error)
    is_auth = type(error).__module__.startswith("google.auth")
    return is_auth or any(text.startswith(word) or f" {word}" in text[:300] for word in _REFUSED)


def bucket_error_message(error: BaseException, path: object = "") -> str | None:
    """Returns a message for the user about an error of a bucket; None for any other error.

    Args:
      error: exception of a client of buckets.
      path: what was read or written, if known.
    """
    subject = f"bucket of {path}" if path else "bucket"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if is_refused(error):
        return f"the {subject} refused access ({reason}). {_HINT}"
    if _is_of_bucket(error) or isinstance(error, ConnectionError | TimeoutError):
        return (
            f"the {subject} did not answer, although the request was repeated ({reason}). Rerun "
            "the command when the bucket can be reached"
        )
    return None


def _is_of_bucket(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _CLIENT_PACKAGES
