"""Checks whether a split's labels can be trained on or scored, and whether `id_map` fits them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few
from data_pipelines.labels import IGNORE_LABEL, unpack_color
from data_pipelines.sources.audit import audit_labels, raise_for_problems, sample_indices
from data_pipelines.sources.source import Source
from data_pipelines.sources.stats import LabelStats, group_issues

_MAX_LISTED = 8


@dataclass(frozen=True)
class LabelReport:
    """Conclusions from the label statistics of a split.

    Attributes:
      problems: why the split cannot be trained on or scored.
      warnings: suspicious properties of the labels.
      absent_classes: quoted names of the classes that do not occur, the first few; "": none.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    absent_classes: str = ""


def check_split_labels(
    source: Source,
    config: DataConfig,
    split: str,
    trains: bool,
    log: Callable[[str], None] = lambda line: None,
    sample_size: int = 16,
) -> tuple[LabelStats, LabelReport]:
    """Checks a sample of a split's labels, or all if the sample contains too few classes.

    Args:
      source: the split.
      config: the dataset.
      split: name of the split.
      trains: whether the split is trained on; else it is scored.
      log: called with a line before all labels are read.
      sample_size: number of labels in the sample.

    Returns:
      Statistics of the labels read, and the conclusions.

    Raises:
      DataError: a label is wrong, or the split cannot be trained on or scored.
    """
    indices = sample_indices(len(source), sample_size)
    stats = audit_labels(source, indices)
    raise_for_problems(stats, _id_map_hint(config, stats))
    if config.keypoints is not None or config.is_classification:
        return stats, LabelReport(warnings=tuple(group_issues(stats.warnings)))
    needed = 2 if trains else 1
    present = len(_present_classes(config, stats))
    if present < needed and stats.records < len(source):
        classes = "one class" if present else "no class"
        log(f"{split}: {stats.records} labels contain {classes}: reading all {len(source)}")
        audit_labels(
            source,
            [index for index in range(len(source)) if index not in indices],
            stop_when=lambda stats: (
                len(_present_classes(config, stats)) >= needed or bool(stats.problems)
            ),
            stats=stats,
        )
        raise_for_problems(stats, _id_map_hint(config, stats))
    report = report_labels(stats, config, split, trains)
    if report.problems:
        raise DataError(f"{report.problems[0]}.")
    return stats, report


def report_labels(stats: LabelStats, config: DataConfig, split: str, trains: bool) -> LabelReport:
    """Draws conclusions from the label statistics of a split that is trained on or else scored."""
    present = _present_classes(config, stats)
    problems, warnings = [], group_issues(stats.warnings)
    labels = f"the {stats.records} labels of {split}"
    if stats.pixels and not present:
        problems.append(
            f"no pixel in {labels} is labeled, so they cannot be"
            f" {'trained on' if trains else 'scored'}{_describe_ignored(config, stats.file_ids)}"
        )
    elif len(present) == 1:
        only = (
            f"{labels} contain only the class {config.classes[present[0]]!r}"
            f"{_describe_ignored(config, stats.file_ids)}"
        )
        if trains:
            problems.append(f"cannot train on a single class: {only}")
        else:
            warnings.append(f"scores will cover a single class: {only}")
    mapped = set(config.train_ids.values())
    if unmapped := _quote([name for k, name in enumerate(config.classes) if k not in mapped]):
        warnings.append(
            f"config.data.id_map must map an id to each class; it has none for {unmapped}"
        )
    unlabeled = [name for name, ids in stats.train_ids if not ids.intersection(present)]
    if present and unlabeled:
        warnings.append(
            f"{split}: {len(unlabeled)} of {stats.records} labels have no labeled pixel:"
            f" {first_few(unlabeled)}"
        )
    if hint := _id_map_hint(config, stats):
        warnings.append(f"{split}: {hint}")
    if conflict := _describe_palette_conflict(stats):
        warnings.append(f"{split}: {conflict}")
    absent = _quote([name for k, name in enumerate(config.classes) if k not in present])
    return LabelReport(tuple(problems), tuple(warnings), absent)


def describe_untrained_classes(
    config: DataConfig, train_stats: LabelStats, eval_stats: LabelStats
) -> str:
    """Describes the classes that occur in the evaluation labels only; "" if there are none."""
    trained = _present_classes(config, train_stats)
    untrained = [k for k in _present_classes(config, eval_stats) if k not in trained]
    if not untrained:
        return ""
    names, pixels = _quote([config.classes[k] for k in untrained]), eval_stats.pixels
    fraction = sum(pixels[k] for k in untrained) / max(eval_stats.total, 1)
    unit = "images" if config.is_classification else "pixels"
    return (
        f"{config.eval_split} contains {names} ({fraction:.2%} of its {unit}), but"
        f" {config.train_split} does not, so they cannot be learned"
    )


def suggest_id_map(config: DataConfig, file_ids: Collection[int]) -> str:
    """Suggests an `id_map` for files with as many ids as there are classes; else ""."""
    ids = sorted(file_ids)
    ignored = config.ignore_label
    has_ignored = len(ids) > len(config.classes) and ignored in ids
    if has_ignored:
        ids.remove(ignored)
    if len(ids) != len(config.classes) or len(ids) > _MAX_LISTED:
        return ""
    pairs = ", ".join(f"({file_id}, {train_id})" for train_id, file_id in enumerate(ids))
    pairs += f", ({ignored}, {ignored})" if has_ignored else ""
    return (
        f"the files contain the ids {', '.join(map(str, ids))} for {len(ids)} classes: if they are"
        f" in the order of the classes, set data.id_map=({pairs})"
    )


def describe_shifted_ids(config: DataConfig, file_ids: Collection[int]) -> str:
    """Describes ids in files that look like the `id_map` ids shifted by one; "" for others."""
    table = config.train_ids
    class_ids = sorted(i for i, train_id in table.items() if train_id < len(config.classes))
    if len(class_ids) < 2 or class_ids != list(range(class_ids[0], class_ids[-1] + 1)):
        return ""
    ids = set(file_ids) - {IGNORE_LABEL, config.ignore_label}
    first, last = class_ids[0], class_ids[-1]
    if last + 1 in ids and first not in ids and {last + 1} < ids <= {*range(first + 1, last + 2)}:
        absent, extra, shift = table[first], last + 1, 1
    elif len(class_ids) > 2 and ids == set(range(first - 1, last)):
        absent, extra, shift = table[last], first - 1, -1
    else:
        return ""
    verb = "ignores" if extra in table else "does not know"
    pairs = ", ".join(f"({i + shift}, {table[i]})" for i in class_ids[:2])
    return (
        f"the files contain the ids {min(ids)} to {max(ids)}, but data.id_map maps {first} to"
        f" {last} and {verb} {extra}, so {config.classes[absent]!r} never occurs. If the ids start"
        f" at {first + shift}, set data.id_map=({pairs}, ...)"
    )


def _id_map_hint(config: DataConfig, stats: LabelStats) -> str:
    """Returns a hint if the ids in the files do not seem to match `id_map`; else ""."""
    suggestion = suggest_id_map(config, stats.file_ids) if stats.unknown_ids else ""
    return suggestion or describe_shifted_ids(config, stats.file_ids)


def _describe_palette_conflict(stats: LabelStats) -> str:
    """Describes an id that has different colors in palette files; "" if there is none."""
    for file_id, colors in sorted(stats.palettes.items()):
        if len(colors) > 1:
            listed = " and ".join(str(unpack_color(color)) for color in sorted(colors)[:2])
            return (
                f"the palettes of the label files differ: id {file_id} has the colors {listed}. If"
                " the colors stand for classes, set data.label_encoding=colors and data.palette"
            )
    return ""


def _present_classes(config: DataConfig, stats: LabelStats) -> list[int]:
    return [k for k in range(len(config.classes)) if stats.pixels[k]]


def _describe_ignored(config: DataConfig, file_ids: Mapping[int, int]) -> str:
    """Describes the ignored ids in the files, and how to read them as classes."""
    table = config.train_ids
    ignored = [i for i in sorted(file_ids) if table.get(i) == config.ignore_label]
    if not ignored:
        return ""
    fraction = sum(file_ids[i] for i in ignored) / sum(file_ids.values())
    noun, verb = ("id", "is") if len(ignored) == 1 else ("ids", "are")
    listed = ", ".join(map(str, ignored[:_MAX_LISTED]))
    text = f" ({noun} {listed} {verb} ignored, {fraction:.1%} of all pixels)"
    suggestion = suggest_id_map(config, file_ids)
    return f"{text}; {suggestion}" if suggestion else text


def _quote(names: Collection[str]) -> str:
    """Returns the first few names of classes in quotes."""
    listed = ", ".join(repr(name) for name in list(names)[:_MAX_LISTED])
    more = len(names) - _MAX_LISTED
    return f"{listed} and {more} more classes" if more > 0 else listed
