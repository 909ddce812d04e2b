"""Times calls on a GPU, for benchmarks; to be imported before JAX starts its devices."""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the memory

import jax


def add_timing_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that all GPU benchmarks have."""
    parser.add_argument("--calls", type=int, default=20, help="timed calls per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, whose median is reported")
    parser.add_argument("--cache", help="folder of the compilation cache")
    parser.add_argument("--csv", help="prefix of the CSV file")


def use_cache(folder: str | None) -> None:
    """Caches all programs that JAX compiles in a folder; None for no cache."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def device_name() -> str:
    """Returns the kind of the device, without spaces."""
    return str(jax.devices()[0].device_kind).replace(" ", "_")


def milliseconds(run: Callable[[], Any], wait: Callable[[Any], Any], args: Any) -> float:
    """Returns the median time of a call, of calls that are dispatched without waiting; or NaN.

    Args:
      run: dispatches a call and returns its result.
      wait: waits for a result.
      args: options of `add_timing_options`; without calls nothing is timed.
    """
    if not args.calls:
        return math.nan
    for _ in range(3):
        wait(run())
    times = []
    for _ in range(args.rounds):
        start_time = time.perf_counter()
        for _ in range(args.calls):
            last = run()
        wait(last)
        times.append((time.perf_counter() - start_time) / args.calls * 1e3)
    return statistics.median(times)
