"""The one error that the data pipelines raise for a person to read, and what others say."""


class DataError(ValueError):
    """Something about the data or its configuration is wrong.

    The message is one sentence or two: it names the file or the value, and what to do about it.
    It holds nothing but that text, so it crosses worker processes unchanged.
    """


def first_line(error: Exception) -> str:
    """What another library's error says, in one line of 200 letters at most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
