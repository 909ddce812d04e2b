"""Memory allocation of the host process, for training on CPUs."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # mallopt's parameters (glibc)


def keep_freed_memory() -> bool:
    """Keeps freed memory in the process instead of returning it to the operating system.

    A train step on CPUs allocates its activations anew, and memory that was returned in between has
    to be faulted in and cleared again in each step. Call this function before JAX initializes its
    devices. Without glibc it has no effect.

    Returns:
      Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**26))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
