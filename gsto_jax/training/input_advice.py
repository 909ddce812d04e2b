"""Advice, once per start of a run, if its steps wait for input."""

from collections.abc import Callable

from gsto_jax.training.loop import StepReport

HIGH_INPUT_WAIT = 0.2
"""Fraction of the time spent waiting for input above which advice is given."""


class InputAdvice:
    """Logs what to do if steps wait for input, once.

    The first report is ignored, since worker processes start before it. On CPUs there is no advice:
    input and steps share them, so that waiting does not mean that the input is slow.

    Args:
      log: prints a line of text.
      platform: platform of the devices, such as "tpu".

    Example:
      >>> advise = InputAdvice(print, "tpu")
      >>> advise(first_report)
      >>> advise(report_of_half_a_step_of_waiting)
      note: step 200: the steps waited for input 50% of the time: ...
    """

    def __init__(self, log: Callable[[str], None], platform: str) -> None:
        self._log = log
        self._reports_to_ignore = 1
        self._done = platform == "cpu"

    def __call__(self, report: StepReport) -> None:
        """Receives the report of a step."""
        if self._reports_to_ignore:
            self._reports_to_ignore -= 1
        elif not self._done and report.input_wait > HIGH_INPUT_WAIT:
            self._done = True
            self._log(
                f"note: step {report.step}: the steps waited for input {report.input_wait:.0%} of"
                " the time: try more data.workers or data.storage=tiles (docs/data.md#input-speed);"
                " --mode=bench_input measures what this host can load"
            )
