"""Exceptions of the library."""


class UserError(ValueError):
    """An error that the user can fix, such as a bad config option, path or file.

    The message names the cause and the remedy. `main.py` prints it without a traceback and exits
    with status 2.
    """


class StatisticsError(ValueError):
    """BatchNorm has fewer than two values per channel in training, so no variance."""


class TrainingError(Exception):
    """A failure during training, such as a non-finite loss or a full disk."""
