"""Memory of the host process, for training on CPUs."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # mallopt's parameters (glibc)


def keep_freed_memory() -> bool:
    """Lets the process keep the memory that it frees, rather than return it to the system.

    On CPUs a step of training allocates its intermediate values afresh. Returned to the system in
    between, every page of them is faulted in and cleared again each step. Call this before JAX
    finds its devices; later, and with a C library other than glibc, it does nothing.

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
