"""Limits on untrusted files; each is checked before anything is allocated or written."""

import re

MAX_TEXT_BYTES = 2**31
"""Maximum size of a JSON or .mat file. COCO's largest annotation file has 2**28 bytes; those of
COCO-WholeBody have 116 more joints for each person and may have nearly 2**30."""
MAX_FILE_BYTES = MAX_TEXT_BYTES
"""Maximum size of an archive member that is read into memory; the largest are JSON files."""
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
