"""What the files of a run say, read once."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from gsto_jax.errors import UserError
from gsto_jax.models.specs import RESNETS, has_gates
from gsto_jax.pose import results as pose_results
from gsto_jax.pose.results import PoseEvaluation
from gsto_jax.runs.checkpoint import Record, steps
from gsto_jax.runs.workdir import Workdir
from gsto_jax.segmentation import results as segmentation_results
from gsto_jax.segmentation.results import SegmentationEvaluation

Found = TypeVar("Found", SegmentationEvaluation, PoseEvaluation)
_READERS: Mapping[str, Callable[[Path], Any]] = {
    "segmentation": segmentation_results.read,
    "pose": pose_results.read,
}


@dataclass(frozen=True)
class Run(Generic[Found]):
    """A run, read.

    Attributes:
      path: its folder.
      label: its name, or what tells it from the other of two.
      config: every setting.
      training: numbers by step, ascending.
      evaluations: all of them, oldest first.
      starts: what ran, oldest first.
      best: step of the best checkpoint; None for none.
      by_split: what eval-SPLIT/ holds, by split.
      split: of the newest evaluation.
    """

    path: Path
    label: str
    config: Mapping[str, Any]
    training: list[Record]
    evaluations: list[Record]
    starts: list[Record]
    best: int | None
    by_split: Mapping[str, Found]
    split: str

    @property
    def evaluation(self) -> Found | None:
        """What the page shows of the newest evaluation; None where its files are not there."""
        return self.by_split.get(self.split)

    @property
    def record(self) -> Record | None:
        """The newest evaluation: as its folder says, or where that is not whole, as the list."""
        if self.evaluation:
            return dict(self.evaluation.record)
        return self.evaluations[-1] if self.evaluations else None

    @property
    def task(self) -> str:
        """What was trained, "segmentation" or "pose"; runs from before there were two say none."""
        return str(self.get("task", "segmentation"))

    def get(self, field: str, default: Any = None) -> Any:
        """A setting by its dotted name; the default where an old run has none."""
        value: Any = self.config
        for name in field.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return default
            value = value[name]
        return value

    @property
    def network(self) -> str:
        """The network in words, such as "GSTO-HRNet-W18-Small-v2" or "PPM-ResNet50"."""
        body = str(self.get("model.variant", ""))
        words = body.split("_")
        variant = "-".join(x if x[:1] == "v" else x.capitalize() for x in words if x)
        if self.get("model.hrnet") is None:
            return variant  # of other code, which names its options otherwise
        if body in RESNETS:
            gated = has_gates(False, [self.get("model.context_net.gating", "none")])
            module = str(self.get("model.context_net.module", "")).upper()
            parts = ["GSTO" if gated else "", module, variant.replace("Resnet", "ResNet")]
            return "-".join(filter(None, parts))
        gated = has_gates(self.get("model.hrnet.gfm", False), self.get("model.hrnet.gtm", ()))
        plain = "HRNet" if self.get("model.hrnet.head") == "v1" else "HRNetV2"
        name = "-".join(filter(None, ["GSTO-HRNet" if gated else plain, variant]))
        other = self.get("model.hrnet.attention", "none")
        return name if other == "none" else f"{name} with {other} gates"

    @property
    def data(self) -> str:
        """The dataset in words."""
        root = Path(str(self.get("data.root", ""))).name
        if self.task == "pose":
            joints = len(self.get("data.keypoints.names", ()))
            return f"{self.get('data.name', '')} in {root}, {joints} joints"
        source = self.get("data.source", "")
        name = "drawn street scenes" if source == "scenes" else self.get("data.name") or root
        return f"{name or source}, {len(self.get('data.classes', ()))} classes"

    @property
    def steps(self) -> str:
        """How far it came, of how many steps."""
        seen = [*self.training, *self.evaluations, *self.starts]
        reached = max((line.get("step", 0) for line in seen), default=0)
        planned = self.get("train.steps", 0)
        return (
            f"{reached} of {planned}" if planned and not self.get("train.epochs") else f"{reached}"
        )


def read_run(run: Workdir | Path | str) -> Run[Any]:
    """Reads a run. Raises UserError for a folder that is none, or of a task that has no page."""
    path = run.path if isinstance(run, Workdir) else Path(run)
    folder = Workdir(path, read_only=True)
    config = folder.config()
    assert config is not None, "checked by Workdir"
    task = config.get("task", "segmentation")
    if task not in _READERS:
        raise UserError(
            f"{folder.path} is a run of the task {task!r}, which has no page: give one of "
            f"{' or '.join(_READERS)}"
        )
    evaluations = folder.evaluations()
    found = {x.name.removeprefix("eval-"): x for x in sorted(folder.path.glob("eval-*"))}
    read = {split: _READERS[task](x) for split, x in found.items()}
    by_split = {split: x for split, x in read.items() if x is not None}
    newest = evaluations[-1].get("split") if evaluations else next(iter(by_split), None)
    best = steps(folder.best)
    return Run(
        path=folder.path,
        label=str(config.get("name") or folder.path.name),
        config=config,
        training=folder.training(),
        evaluations=evaluations,
        starts=folder.starts(),
        best=best[-1] if best else None,
        by_split=by_split,
        split=newest or str(config.get("data", {}).get("eval_split", "val")),
    )


def told_apart(ours: Run, theirs: Run) -> tuple[Run, Run]:
    """Two runs under the shortest labels that differ: names, else folders, else paths."""
    for key in (lambda run: run.label, lambda run: run.path.name, lambda run: str(run.path)):
        if key(ours) != key(theirs):
            break
    return replace(ours, label=key(ours)), replace(theirs, label=key(theirs))


def number(value: Any) -> float:
    """A number of a record; NaN where it is none."""
    return float(value) if isinstance(value, int | float) else math.nan
