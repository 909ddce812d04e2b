"""The one error that the data pipelines raise for a person to read."""


class DataError(ValueError):
    """Something about the data or its configuration is wrong.

    The message is one sentence or two: it names the file or the value, and what to do about it.
    It holds nothing but that text, so it crosses worker processes unchanged.
    """
