"""What the files of a run say, read once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax import eval_folder
from gsto_jax.checkpoint import Record, steps
from gsto_jax.errors import UserError
from gsto_jax.eval_folder import Evaluation
from gsto_jax.models.specs import has_gates
from gsto_jax.workdir import Workdir


@dataclass(frozen=True)
class Run:
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
    by_split: Mapping[str, Evaluation]
    split: str

    @property
    def evaluation(self) -> Evaluation | None:
        """What the page shows of the newest evaluation; None where its files are not there."""
        return self.by_split.get(self.split)

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
        """The network in words, such as "GSTO-HRNet-W18-Small-v2"."""
        gated = has_gates(self.get("model.gfm", False), self.get("model.gtm", ()))
        words = str(self.get("model.variant", "")).split("_")
        variant = "-".join(x if x[:1] == "v" else x.capitalize() for x in words if x)
        return "-".join(filter(None, ["GSTO-HRNet" if gated else "HRNetV2", variant]))

    @property
    def data(self) -> str:
        """The data set in words."""
        root = Path(str(self.get("data.root", ""))).name
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


def read_run(run: Workdir | Path | str) -> Run:
    """Reads a run. Raises UserError for a folder that is none."""
    path = run.path if isinstance(run, Workdir) else Path(run)
    folder = Workdir(path, read_only=True)
    config = folder.config()
    assert config is not None, "checked by Workdir"
    evaluations = folder.evaluations()
    found = {x.name.removeprefix("eval-"): x for x in sorted(folder.path.glob("eval-*"))}
    read = {split: eval_folder.read(x) for split, x in found.items()}
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


def comparable(ours: Run, theirs: Run) -> tuple[Evaluation, Evaluation]:
    """The evaluations of two runs on the same pictures.

    Raises:
      UserError: they have none, or their classes, splits, pictures or labels differ.
    """
    for run, other in ((ours, theirs), (theirs, ours)):
        classes, others = (list(x.get("data.classes", ())) for x in (run, other))
        if classes != others:
            only = [x for x in classes if x not in others] or classes
            raise UserError(
                f"{run.path} and {other.path} are of other classes ({', '.join(only[:5])} only in "
                f"{run.path.name}, or in another order): compare runs of the same classes"
            )
    split = ours.split
    for run in (ours, theirs):
        if split not in run.by_split:
            has = ", ".join(run.by_split) or "none"
            raise UserError(
                f"{run.path} has no complete evaluation on {split}, the split of {ours.path} "
                f"(complete: {has}): evaluate it there with --mode=eval"
            )
    one, two = ours.by_split[split], theirs.by_split[split]
    pictures = [[(p.name, p.height, p.width) for p in x.pictures] for x in (one, two)]
    if all(pictures) and pictures[0] != pictures[1]:
        odd = sorted(set(pictures[0]) ^ set(pictures[1]))
        example = f", such as {odd[0][0]}" if odd else ", in another order"
        raise UserError(
            f"{ours.path} and {theirs.path} were evaluated on other pictures of {split}"
            f"{example}: evaluate both on the same with --mode=eval"
        )
    if one.classes != two.classes or not np.array_equal(one.confusion.sum(1), two.confusion.sum(1)):
        raise UserError(
            f"{ours.path} and {theirs.path} were evaluated against other labels of {split}: "
            "evaluate both on the same with --mode=eval"
        )
    return one, two
