"""The error of the data pipelines that users see."""


class DataError(ValueError):
    """Invalid data or data configuration; the message names the file or field and the remedy.

    It has no other arguments, so that it can be pickled across worker processes.
    """


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
