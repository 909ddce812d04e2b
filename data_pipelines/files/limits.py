"""Limits on untrusted files; each is checked before anything is allocated or written."""

import re

MAX_TEXT_BYTES = 2**30
"""Maximum size of a JSON, list or .mat file. COCO's largest annotation file has 2**28 bytes, and
COCO-WholeBody adds 116 joints to each of its persons."""
MAX_FILE_BYTES = 2**30
"""Maximum size of an archive member that is read into memory."""
MAX_EXPANSION_RATIO = 100
"""Maximum expanded size of a nested archive, relative to its packed size. Deflate reaches 1032;
images, which are compressed already, about 1."""
MIN_EXPANSION_LIMIT = 2**26
"""Bytes that a nested archive may expand to regardless of its packed size: texts pack well."""
MAX_NESTING = 3
"""Maximum depth of archives within archives. LIP has two; a zip may contain itself."""


def escapes_folder(path: str) -> bool:
    """Returns whether a path read from a file would leave the folder that it is relative to."""
    return path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or "\0" in path
