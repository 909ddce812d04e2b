"""Whether the labels of a split can teach or be scored, and whether ids mean other classes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few
from data_pipelines.labels import IGNORE_LABEL
from data_pipelines.sources.audit import Audit, audit, group, refuse, sample_indices

_NAMED = 8


@dataclass(frozen=True)
class LabelReport:
    """What the labels of a split amount to, in words.

    Attributes:
        problems: why they cannot teach or be scored.
        warnings: what looks wrong.
        missing: the classes that do not occur, the first few by name; "" where all do.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    missing: str = ""


def check_split_labels(
    source: Any,
    config: DataConfig,
    split: str,
    trains: bool,
    tell: Callable[[str], None] = lambda text: None,
    count: int = 16,
) -> tuple[Audit, LabelReport]:
    """Checks a sample of a split's labels; all of them where the sample holds too few classes.

    Args:
        source: of the split.
        config: the dataset.
        split: its name.
        trains: whether the split is to train on; else it is to be scored.
        tell: called with a line before all labels are read.
        count: how many labels the sample has.

    Returns:
        What was inspected, and what it amounts to.

    Raises:
        DataError: a label is wrong, or the split cannot teach or be scored.
    """
    indices = sample_indices(len(source), count)
    found = audit(source, indices)
    refuse(found, _hint(config, found))
    if config.keypoints is not None:
        return found, LabelReport(warnings=tuple(group(found.warnings)))
    enough = 2 if trains else 1
    if len(_present(found, config)) < enough and found.records < len(source):
        classes = "no class" if not _present(found, config) else "one class"
        tell(f"{split}: {found.records} labels hold {classes}: looking through all {len(source)}")
        audit(
            source,
            [index for index in range(len(source)) if index not in indices],
            enough=lambda audit: len(_present(audit, config)) >= enough or bool(audit.problems),
            result=found,
        )
        refuse(found, _hint(config, found))
    report = report_labels(found, config, split, trains)
    if report.problems:
        raise DataError(f"{report.problems[0]}.")
    return found, report


def report_labels(found: Audit, config: DataConfig, split: str, trains: bool) -> LabelReport:
    """Says what inspected labels amount to.

    Args:
        found: the inspected labels, as many as it takes to hold enough classes.
        config: the dataset.
        split: its name.
        trains: whether the split is to train on.
    """
    present = _present(found, config)
    problems, warnings = [], group(found.warnings)
    if found.pixels and not present:
        action = "trained on" if trains else "scored"
        problems.append(
            f"no pixel in the {found.records} labels of {split} is labeled, so that it cannot be"
            f" {action}{_ignored(config, found.ids)}"
        )
    elif len(present) == 1:
        alone = (
            f"the {found.records} labels of {split} hold the class {config.classes[present[0]]!r}"
            f" alone{_ignored(config, found.ids)}"
        )
        if trains:
            problems.append(f"nothing is to be learned where one class is always right: {alone}")
        else:
            warnings.append(f"scores will say nothing of other classes: {alone}")
    if without_id := _without_id(config):
        warnings.append(f"no id of data.id_map stands for {without_id}: add one")
    unlabeled = [name for name, ids in found.holding if not ids.intersection(present)]
    if present and unlabeled:
        warnings.append(
            f"{split}: {len(unlabeled)} of {found.records} labels have no labeled pixel:"
            f" {first_few(unlabeled)}"
        )
    if hint := _hint(config, found):
        warnings.append(f"{split}: {hint}")
    missing = _quoted([name for k, name in enumerate(config.classes) if k not in present])
    return LabelReport(tuple(problems), tuple(warnings), missing)


def suggest_id_map(config: DataConfig, ids: Collection[int]) -> str:
    """Suggests an `id_map` for files that hold as many ids as there are classes; "" for others.

    Args:
        config: the dataset.
        ids: that occur in its files.
    """
    held = sorted(ids)
    ignored = config.ignore_label
    ignores = len(held) > len(config.classes) and ignored in held
    if ignores:
        held.remove(ignored)
    if len(held) != len(config.classes) or len(held) > _NAMED:
        return ""
    pairs = ", ".join(f"({raw}, {train})" for train, raw in enumerate(held))
    pairs += f", ({ignored}, {ignored})" if ignores else ""
    return (
        f"the files hold the ids {', '.join(map(str, held))} for {len(held)} classes: if that is"
        f" their order, give data.id_map=({pairs})"
    )


def describe_shifted_ids(config: DataConfig, ids: Collection[int]) -> str:
    """Says that ids look like those of `id_map`, moved by one; "" if they do not.

    Args:
        config: the dataset.
        ids: that occur in its files.
    """
    table = dict(config.id_map) or {k: k for k in range(len(config.classes))}
    of_class = sorted(raw for raw, train in table.items() if train < len(config.classes))
    if len(of_class) < 2 or of_class != list(range(of_class[0], of_class[-1] + 1)):
        return ""
    held = set(ids) - {IGNORE_LABEL, config.ignore_label}
    first, last = of_class[0], of_class[-1]
    if last + 1 in held and first not in held and held <= set(range(first + 1, last + 2)):
        lost, beyond, step = table[first], last + 1, 1
    elif len(of_class) > 2 and held == set(range(first - 1, last)):
        lost, beyond, step = table[last], first - 1, -1
    else:
        return ""
    use = "ignores" if beyond in table else "does not know"
    pairs = ", ".join(f"({raw + step}, {table[raw]})" for raw in of_class[:2])
    return (
        f"the files hold the ids {min(held)} to {max(held)}, and data.id_map reads {first} to"
        f" {last} and {use} {beyond}, so that {config.classes[lost]!r} never occurs. If the ids"
        f" start at {first + step}, give data.id_map=({pairs}, ...)"
    )


def _hint(config: DataConfig, found: Audit) -> str:
    """Says how ids may be meant, where they look like others than those of `id_map`."""
    suggestion = suggest_id_map(config, found.ids) if found.unknown else ""
    return suggestion or describe_shifted_ids(config, found.ids)


def _present(found: Audit, config: DataConfig) -> list[int]:
    """Returns the train ids of the classes that occur."""
    return [k for k in range(len(config.classes)) if found.pixels[k]]


def _ignored(config: DataConfig, ids: Mapping[int, int]) -> str:
    """Says which ids of the files are ignored, and how to read them as classes."""
    table = dict(config.id_map) or {config.ignore_label: config.ignore_label}
    ignored = [x for x in sorted(ids) if table.get(x, 0) in (IGNORE_LABEL, config.ignore_label)]
    if not ignored:
        return ""
    share = sum(ids[raw] for raw in ignored) / sum(ids.values())
    noun, verb = ("id", "is") if len(ignored) == 1 else ("ids", "are")
    named = ", ".join(map(str, ignored[:_NAMED]))
    text = f" ({noun} {named} {verb} ignored, {share:.1%} of all pixels)"
    suggestion = suggest_id_map(config, ids)
    return f"{text}; {suggestion}" if suggestion else text


def _without_id(config: DataConfig) -> str:
    """Returns the classes that no id of `id_map` stands for."""
    mapped = {train for _, train in config.id_map} or set(range(len(config.classes)))
    return _quoted([name for k, name in enumerate(config.classes) if k not in mapped])


def _quoted(names: Collection[str]) -> str:
    """Returns the first few names of classes in quotes."""
    shown = ", ".join(repr(name) for name in list(names)[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more classes" if len(names) > _NAMED else shown
