"""Exceptions of the library, and their messages."""


class UserError(ValueError):
    """An error that the user can fix, such as a bad config option, path or file.

    The message names the cause and the remedy. `main.py` prints it without a traceback and exits
    with status 2.
    """


class StatisticsError(ValueError):
    """BatchNorm has fewer than two values per channel in training, so no variance."""


class TrainingError(Exception):
    """A failure during training, such as a non-finite loss or a full disk."""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type; at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
