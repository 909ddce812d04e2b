"""The error of the data pipelines that users see."""


class DataError(ValueError):
    """Invalid data or data configuration; the message names the file or field and the remedy.

    It has no other arguments, so that it can be pickled across worker processes.
    """
