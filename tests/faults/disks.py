"""Disks that fill up, and files that may not grow."""

import contextlib
import resource


def fill(folder, left):
    """Fills a disk up to a number of free bytes. Returns the file that fills it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - left)
    return filler


@contextlib.contextmanager
def files_no_larger_than(size):
    """A limit on the size of files: writing fails in the same way, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
