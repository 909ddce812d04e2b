"""Ending a run from outside without losing anything."""

import signal
from types import FrameType
from typing import Any

from gsto_jax import profiling

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """Notes SIGTERM and SIGINT instead of dying of them, while it is entered.

    Nor does the process die of what asks for a profile, where there are no steps to record.

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
        if profiling.SIGNAL is not None:
            self._before[profiling.SIGNAL] = signal.signal(profiling.SIGNAL, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
