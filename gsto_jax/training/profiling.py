"""Profiler traces of a few train steps, scheduled or on demand."""

import math
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from gsto_jax.files import add_files, is_remote

SIGNAL = getattr(signal, "SIGUSR1", None)
"""Signal that requests a trace; None on systems without it, such as Windows."""


class Profiler:
    """Records traces of host and devices; a context manager that handles SIGUSR1.

    SIGUSR1 requests a trace of the next `steps` steps; requests during a trace are ignored. A trace
    that cannot be written is logged and does not stop training.

    Args:
      folder: output folder, in the format of TensorBoard and Perfetto. Traces for a bucket are
        written to a temporary folder, and uploaded when they are complete.
      steps: number of steps per trace.
      start: first step of the scheduled trace; 0 for none.
      log: prints a line of text.

    Example:
      >>> with Profiler(run / "profile", steps=5, start=100, log=print) as profiler:
      ...     for step in range(1, 201):
      ...         profiler(step, wait=lambda: jax.block_until_ready(metrics))
      ...         metrics = train(step)
    """

    def __init__(
        self, folder: Path, steps: int, start: int = 0, log: Callable[[str], None] = print
    ) -> None:
        self._folder, self._steps, self._start, self._log = folder, steps, start, log
        self._requested = False
        self._local: tempfile.TemporaryDirectory[str] | None = None
        self._trace_start = 0  # first step of the open trace; 0 for none
        self._last_step = 0
        self._last_end = -math.inf
        self._previous_handler: Any = None

    def __call__(self, step: int, wait: Callable[[], object] = lambda: None) -> None:
        """Starts and stops traces; must be called before each step.

        Args:
          step: step that is about to be dispatched.
          wait: waits until the device has completed the previous steps. It is called before a trace
            starts or stops, which thus holds complete steps.
        """
        if self._trace_start and step >= self._trace_start + self._steps:
            wait()
            self._stop_trace()
        if not self._trace_start and (self._requested or step == self._start):
            wait()
            self._start_trace(step)
        self._last_step = step

    def __enter__(self) -> "Profiler":
        # Python sets signal handlers in the main thread only.
        if SIGNAL is not None and threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(SIGNAL, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._trace_start:
            self._stop_trace()
        if SIGNAL is not None and self._previous_handler is not None:
            signal.signal(SIGNAL, self._previous_handler)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self._requested = True

    def _start_trace(self, step: int) -> None:
        self._requested = False
        # JAX names a trace by the second of its end, and would overwrite one of the same second.
        time.sleep(max(0.0, self._last_end + 1.0 - time.monotonic()))
        try:
            if is_remote(self._folder):
                self._local = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._local.name if self._local else str(self._folder))
        except (OSError, RuntimeError) as error:
            self._log(f"warning: cannot profile step {step} ({error})")
        else:
            self._trace_start = step

    def _stop_trace(self) -> None:
        steps = f"steps {self._trace_start} to {self._last_step}"
        self._trace_start, self._requested = 0, False
        try:
            jax.profiler.stop_trace()
            if self._local is not None:
                with self._local as local:
                    add_files(Path(local), self._folder)
        except Exception as error:  # of the disk, of the profiler or of a bucket
            self._log(f"warning: cannot write the profile of {steps} ({error})")
        else:
            self._log(f"profile     {steps}: {self._folder}")
        self._last_end = time.monotonic()
