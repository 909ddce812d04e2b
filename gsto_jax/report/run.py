"""Loads the files of a run that a report needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from gsto_jax.classification import results as classification_results
from gsto_jax.classification.results import ClassificationEvaluation
from gsto_jax.errors import UserError
from gsto_jax.models.specs import RESNETS, has_gates
from gsto_jax.pose import results as pose_results
from gsto_jax.pose.results import PoseEvaluation
from gsto_jax.runs.checkpoint import list_steps
from gsto_jax.runs.goodput import TimeSpent, read_sessions, time_spent
from gsto_jax.runs.workdir import Workdir
from gsto_jax.segmentation import results as segmentation_results
from gsto_jax.segmentation.results import SegmentationEvaluation
from gsto_jax.storage import to_path
from gsto_jax.types import Record

Evaluation = TypeVar("Evaluation", SegmentationEvaluation, PoseEvaluation, ClassificationEvaluation)
_READERS: Mapping[str, Callable[[Path], Any]] = {
    "segmentation": segmentation_results.read_evaluation,
    "pose": pose_results.read_evaluation,
    "classification": classification_results.read_evaluation,
}


@dataclass(frozen=True)
class LoadedRun(Generic[Evaluation]):
    """A run, loaded from its folder; records are in the order of their files."""

    path: Path
    label: str  # on the page
    config: Mapping[str, Any]
    training: list[Record]  # of training.jsonl
    evaluations: list[Record]  # of evaluations.jsonl
    starts: list[Record]  # of starts.jsonl
    best_step: int | None  # of the best checkpoint
    evaluation_by_split: Mapping[str, Evaluation]  # complete ones, of eval-SPLIT/
    split: str  # of the newest evaluation
    time_spent: TimeSpent = field(default_factory=lambda: time_spent([]))  # in all starts

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest evaluation; None if its files are incomplete."""
        return self.evaluation_by_split.get(self.split)

    @property
    def record(self) -> Record | None:
        """Record of the newest evaluation, from evaluations.jsonl if its files are incomplete."""
        if self.evaluation:
            return dict(self.evaluation.record)
        return self.evaluations[-1] if self.evaluations else None

    @property
    def task(self) -> str:
        """Task of the run, such as "segmentation"."""
        return str(self.get("task", "segmentation"))

    def get(self, option: str, default: Any = None) -> Any:
        """Returns a config option by its dotted name; the default if the run lacks it."""
        value: Any = self.config
        for name in option.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return default
            value = value[name]
        return value

    @property
    def network_name(self) -> str:
        """Name of the network, such as "GSTO-HRNet-W18-Small-v2" or "PPM-ResNet50"."""
        body = str(self.get("model.variant", ""))
        words = body.split("_")
        variant = "-".join(x if x[:1] == "v" else x.capitalize() for x in words if x)
        if self.get("model.hrnet") is None:
            return variant  # a run of other code
        if body in RESNETS:
            is_gated = has_gates(False, [self.get("model.context_net.gating", "none")])
            module = str(self.get("model.context_net.module", "")).upper()
            parts = ["GSTO" if is_gated else "", module, variant.replace("Resnet", "ResNet")]
            return "-".join(filter(None, parts))
        is_gated = has_gates(self.get("model.hrnet.gfm", False), self.get("model.hrnet.gtm", ()))
        plain_names = {"v1": "HRNet", "cls": "HRNet-C"}
        plain_name = plain_names.get(self.get("model.hrnet.head"), "HRNetV2")
        name = "-".join(filter(None, ["GSTO-HRNet" if is_gated else plain_name, variant]))
        name += "-OCR" if self.get("model.hrnet.head") == "ocr" else ""
        attention = self.get("model.hrnet.attention", "none")
        return name if attention == "none" else f"{name} with {attention} gates"

    @property
    def dataset_name(self) -> str:
        """Name of the dataset, and its number of classes or joints."""
        root = Path(str(self.get("data.root", ""))).name
        if self.task == "pose":
            joints = len(self.get("data.keypoints.names", ()))
            return f"{self.get('data.name', '')} in {root}, {joints} joints"
        source = self.get("data.source", "")
        name = "synthetic street scenes" if source == "scenes" else self.get("data.name") or root
        return f"{name or source}, {len(self.get('data.classes', ()))} classes"

    @property
    def progress(self) -> str:
        """Last step and, if it is known, the planned number of steps."""
        records = [*self.training, *self.evaluations, *self.starts]
        last = max((record.get("step", 0) for record in records), default=0)
        planned = self.get("train.steps", 0)
        return f"{last} of {planned}" if planned and not self.get("train.epochs") else f"{last}"


def load_run(run: Workdir | Path | str) -> LoadedRun[Any]:
    """Loads a run; raises UserError if the folder is not a run, or its task has no report."""
    path = run.path if isinstance(run, Workdir) else to_path(run, "run")
    workdir = Workdir(path, read_only=True)
    config = workdir.read_config()
    assert config is not None, "checked by Workdir"
    task = config.get("task", "segmentation")
    if task not in _READERS:
        raise UserError(
            f"the task of {workdir.path} must be one of {', '.join(_READERS)} for a report; got "
            f"{task!r}"
        )
    evaluations = workdir.read_evaluations()
    folders = {x.name.removeprefix("eval-"): x for x in sorted(workdir.path.glob("eval-*"))}
    loaded = {split: _READERS[task](folder) for split, folder in folders.items()}
    complete = {split: x for split, x in loaded.items() if x is not None}
    newest = evaluations[-1].get("split") if evaluations else next(iter(complete), None)
    best_steps = list_steps(workdir.best)
    return LoadedRun(
        path=workdir.path,
        label=str(config.get("name") or workdir.path.name),
        config=config,
        training=workdir.read_training(),
        evaluations=evaluations,
        starts=workdir.read_starts(),
        best_step=best_steps[-1] if best_steps else None,
        evaluation_by_split=complete,
        split=newest or str(config.get("data", {}).get("eval_split", "val")),
        time_spent=time_spent(read_sessions(workdir)),
    )


def missing_steps_note(
    training: Sequence[Record], starts: Sequence[Record], evaluations: Sequence[Record]
) -> str:
    """Returns a note about a run of which no step was logged; "" for other runs."""
    if training:
        return ""
    if evaluations:
        return "No step of this run was logged."
    history = "it never got as far as its first step"
    if starts:
        count = "once" if len(starts) == 1 else f"{len(starts)} times"
        history = (
            f"it was started {count}, last at {starts[-1].get('time', 'an unknown time')} from "
            f"step {starts[-1].get('step', 0)}, and ended before a log line"
        )
    return f"No step of this run was logged: {history}. The same command continues it."


def with_distinct_labels(a: LoadedRun, b: LoadedRun) -> tuple[LoadedRun, LoadedRun]:
    """Labels two runs by the first that differs: name, folder name, path."""
    for key in (lambda run: run.label, lambda run: run.path.name, lambda run: str(run.path)):
        if key(a) != key(b):
            break
    return replace(a, label=key(a)), replace(b, label=key(b))


def to_float(value: Any) -> float:
    """Returns a number of a record as float; NaN for other values."""
    return float(value) if isinstance(value, int | float) else math.nan
