"""What files may ask for. Each is checked before anything of that size, or that name, is made."""

import re

MAX_TEXT_BYTES = 2**29
"""Bytes of a JSON file, a list or a .mat. COCO's largest, of all training persons, has 2**28."""
MAX_FILE_BYTES = 2**30
"""Bytes of one file that is read whole out of an archive."""
MAX_EXPANSION_RATIO = 100
"""How many times its packed size an archive in an archive may have: deflate reaches 1032, and
images, which are packed already, about 1."""
MIN_EXPANSION_LIMIT = 2**26
"""Bytes that it may always have: a small archive of texts packs well."""
MAX_NESTING = 3
"""Archives within archives: LIP has two. A zip that holds itself has no end."""


def escapes_folder(name: str) -> bool:
    """Whether a path out of a file would lead out of the folder that it is taken to lie in."""
    return name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\0" in name
