"""A limit on the memory that a test may allocate."""

import contextlib
import tracemalloc


@contextlib.contextmanager
def allocating_less_than(size):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
