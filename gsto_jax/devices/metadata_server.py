"""Metadata server of a virtual machine on Google Compute Engine."""

import http.client
import os
import urllib.error
import urllib.request

HOST_VARIABLES = ("GCE_METADATA_HOST", "GCE_METADATA_IP")
"""Environment variables that name another server, as in Google's client libraries."""


def metadata_host() -> str:
    """Returns the address of the server."""
    values = filter(None, map(os.environ.get, HOST_VARIABLES))
    return next(values, "metadata.google.internal")


def metadata_url(key: str) -> str:
    """Returns the URL of a value of this machine."""
    return f"http://{metadata_host()}/computeMetadata/v1/instance/{key}"


def read_metadata(key: str, timeout: float) -> str | None:
    """Requests a value of this machine once.

    Args:
      key: key below `instance/`.
      timeout: seconds to wait for an answer.

    Returns:
      The value; None if the server has no such key.

    Raises:
      OSError: the server does not answer, or by another status.
      ValueError: the value is no text.
    """
    request = urllib.request.Request(metadata_url(key), headers={"Metadata-Flavor": "Google"})
    # A proxy does not know this machine's server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            text: str = response.read(2**20).decode()
            return text
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    except http.client.HTTPException as error:  # another kind of server
        raise OSError(f"{type(error).__name__}: {error}") from error
