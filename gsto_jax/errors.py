"""Exceptions: what the user can fix, and what ends a run."""


class UserError(ValueError):
    """A bad setting, path or file. The message names the thing and the remedy.

    `main.py` prints the message alone and exits with status 2; any other exception is a defect of
    this package and keeps its traceback.
    """


class StatisticsError(ValueError):
    """BatchNorm in training sees fewer than two values per channel, which have no variance."""


class TrainingError(Exception):
    """A run that cannot go on, though its settings and data could be read."""
