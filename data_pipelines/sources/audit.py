"""Inspects the labels of a split and collects their statistics and issues."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from data_pipelines.errors import DataError
from data_pipelines.sources.source import Source
from data_pipelines.sources.stats import LabelStats, group_issues


def audit_labels(
    source: Source,
    indices: Iterable[int] | None = None,
    *,
    on_record: Callable[[], None] = lambda: None,
    stop_when: Callable[[LabelStats], bool] = lambda stats: False,
    stats: LabelStats | None = None,
) -> LabelStats:
    """Inspects the labels of a source, in the order of the indices.

    Args:
      source: the split.
      indices: records to inspect; None: all.
      on_record: called after each record.
      stop_when: called with the statistics after each record; True ends the audit.
      stats: statistics of other records to add to.
    """
    stats = LabelStats() if stats is None else stats
    indices = range(len(source)) if indices is None else indices
    with ThreadPoolExecutor(4) as pool:
        for record_stats in pool.map(source.inspect, indices):
            stats.update(record_stats)
            on_record()
            if stop_when(stats):
                break  # cancels the reads that have not started
    return stats


def sample_indices(size: int, count: int = 16) -> range:
    """Returns up to `count` indices spread evenly over `size` records."""
    return range(0, size, -(-size // count))


def raise_for_problems(stats: LabelStats, hint: str = "") -> None:
    """Raises DataError with the first problem, if there is one, and a hint in parentheses."""
    if stats.problems:
        hint = f" ({hint})" if hint else ""
        raise DataError(f"{group_issues(stats.problems)[0]}{hint}. See all with --mode=audit.")
