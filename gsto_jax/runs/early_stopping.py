"""Early stopping: ends a run whose score no longer improves."""

from gsto_jax.devices import processes
from gsto_jax.runs.checkpoint import list_steps
from gsto_jax.runs.workdir import Workdir


def early_stop_reason(
    workdir: Workdir, *, split: str, metric: str, step: int, patience: int
) -> str:
    """Returns why training stops after a step; "" if it goes on. A collective call.

    The evaluations of a run are counted in its folder, so that a resumed run stops where an
    uninterrupted one does.

    Args:
      workdir: folder of the run.
      split: split of the evaluations.
      metric: name of the score that ranks checkpoints.
      step: number of completed steps.
      patience: number of evaluations without a new best score; 0: never stops.
    """
    if not patience:
        return ""
    key = {"split": split, "while_training": True}
    evaluated = {x["step"] for x in workdir.read_evaluations() if key.items() <= x.items()}
    best = max(list_steps(workdir.best), default=0)
    count = sum(best < other <= step for other in evaluated)
    reason = ""
    if count >= patience:
        reason = f"as run.patience says: {count} evaluations had no better {metric}"
        reason += f" than {workdir.best / str(best)}" if best else ""
    # All processes stop at the same step, whatever each of them sees in a shared file system.
    return str(processes.broadcast(reason))
