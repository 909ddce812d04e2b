"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place at the end, and does not where that failed.

    Args:
      path: its place, in a folder that is there.

    Example:
      >>> with replacing(folder / "scores.json") as part:
      ...     part.write_text(text)
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
