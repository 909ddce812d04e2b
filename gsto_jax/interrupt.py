"""Ending a run from outside without losing anything."""

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PASSED_OVER = signal.SIGUSR1
"""Asks for a profile (`gsto_jax.profiling`), and must end nothing where there are no steps."""


class Interrupt:
    """Notes SIGTERM and SIGINT instead of dying of them, and of SIGUSR1, while it is entered.

    A second SIGINT (Ctrl-C) does what it always does.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the signal that came; None before."""
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Whether the run should end."""
        return self.received is not None

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._before[_PASSED_OVER] = signal.signal(_PASSED_OVER, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
