"""Measures the images per second that this host can load for a config. Uses no devices."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table

from configs.loading import plain_values
from data_pipelines import (
    DataConfig,
    EvalBatches,
    Source,
    StageSeconds,
    Throughput,
    evaluation_throughput,
    make_source,
    measure_stages,
    train_batch_bytes,
    train_throughput,
    usable_cpus,
)
from data_pipelines.buckets import MAX_PADDED_SHAPES
from data_pipelines.image_class_options import CLASS_SOURCES
from data_pipelines.shared_memory import fitting_workers
from data_pipelines.workers import MAX_AUTO_WORKERS, READ_OPTIONS
from gsto_jax import progress
from gsto_jax.config import Config
from gsto_jax.errors import UserError
from gsto_jax.storage import to_path, write_json
from modes.terminal_output import log

_STAGE_SECONDS = 3.0
"""Duration of the measurement of single stages."""
_THREADS = READ_OPTIONS.num_threads
"""Threads that read without worker processes."""


_AUGMENT_STAGES = dict.fromkeys(CLASS_SOURCES, "decode and resize the crop")
"""Names of the last stage, where it decodes too."""


def run(args: Any) -> None:
    """Runs the mode."""
    values = plain_values(args.config)
    data = DataConfig(**values.pop("data"))
    config = Config.from_dict(values)
    cores = usable_cpus()
    batch_bytes = train_batch_bytes(data, config.train.batch_size)
    most = min(cores, MAX_AUTO_WORKERS, fitting_workers(batch_bytes))
    counts = _worker_counts(args.worker_counts, data, most)
    with progress.track("reading the data"):
        source = make_source(data, data.train_split)
    unit = "persons" if data.keypoints else "images"
    height, width = data.crop
    log(
        f"{config.name}: {len(source)} training {unit} in batches of {config.train.batch_size},"
        f" crop {height}x{width}, on {cores} CPUs"
    )
    with progress.track("measuring the stages"):
        stages = measure_stages(data, source, _STAGE_SECONDS)
    log(_stage_table(stages, data, unit))
    speeds: dict[int, Throughput] = {}
    for workers in counts:
        with progress.track(f"measuring {workers} workers"):
            speeds[workers] = train_throughput(
                data, source, config.train.batch_size, workers=workers, seconds=args.seconds
            )
    log(_worker_table(speeds, stages, cores, unit))
    best = best_workers(speeds)
    log(_measure_evaluation(replace(data, workers=best), config.eval.batch_size, args.seconds))
    if args.output:
        record = input_record(speeds, cores) | {"config": config.name, "crop": list(data.crop)}
        record["stored_bytes_per_image"] = stages.stored_bytes
        path = to_path(args.output, "--output")
        write_json(path, record, f"--output={path}")
        log(f"measurement  {path}")


def _worker_counts(flag: list[str] | None, data: DataConfig, most: int) -> list[int]:
    """Returns the numbers of worker processes to measure, ascending.

    Args:
      flag: value of --worker_counts.
      data: the dataset.
      most: largest number to measure, unless the flag or `data.workers` names others.

    Raises:
      UserError: the flag is no list of numbers.
    """
    if flag:
        if not all(text.strip().isdecimal() for text in flag):
            raise UserError(
                f"--worker_counts must be numbers, such as 0,1,2; got {','.join(flag)!r}"
            )
        return sorted({int(text) for text in flag})
    if isinstance(data.workers, int):
        return [data.workers]
    powers = (2**n for n in range(most.bit_length()))
    return sorted({0, *powers, most})


def cores_in_use(workers: int, cores: int) -> int:
    """Returns the number of CPUs that the workers, or else the reading threads, can use."""
    return min(workers or _THREADS, cores)


def best_workers(speeds: Mapping[int, Throughput]) -> int:
    """Returns the number of worker processes that delivered the most images per second."""
    return max(speeds, key=lambda workers: speeds[workers].images_per_second)


def input_record(speeds: Mapping[int, Throughput], cores: int) -> dict[str, Any]:
    """Returns what `--mode=plan` needs to know of a measurement.

    Args:
      speeds: speed of the training input by number of worker processes.
      cores: number of CPUs that this process may use.
    """
    best = best_workers(speeds)
    rate = speeds[best].images_per_second
    return {
        "images_per_second": rate,
        "cores": cores,
        "workers": best,
        "images_per_second_per_core": rate / cores_in_use(best, cores),
        "by_workers": {str(workers): asdict(speed) for workers, speed in speeds.items()},
    }


def _stage_table(stages: StageSeconds, data: DataConfig, unit: str) -> Table:
    title = f"milliseconds of one core, mean of {stages.images} {unit}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("ms", justify="right")
    tiled = data.source == "tfds" and data.storage == "tiles"
    rows = {
        f"read {stages.stored_bytes / 1e6:.2f} MB": stages.read,
        "render" if data.source == "scenes" else "decode": stages.decode,
        _AUGMENT_STAGES.get(data.source, "decode tiles, augment" if tiled else "augment"): (
            stages.augment
        ),
    }
    for name, seconds in rows.items():
        table.add_row(name, f"{1e3 * seconds:.1f}")
    table.add_section()
    table.add_row("all", f"{1e3 * sum(rows.values()):.1f}")
    return table


def _worker_table(
    speeds: Mapping[int, Throughput], stages: StageSeconds, cores: int, unit: str
) -> Table:
    table = Table(title="training input", title_justify="left", caption_justify="left")
    for name in ("worker processes", f"{unit}/s", "per core", "scaling", "busy cores", "MB/s read"):
        table.add_column(name, justify="right", no_wrap=True)
    single = speeds[1].images_per_second if 1 in speeds else 0.0
    for workers, speed in speeds.items():
        rate = speed.images_per_second
        table.add_row(
            str(workers) if workers else f"0 ({_THREADS} threads)",
            f"{rate:.1f}",
            f"{rate / cores_in_use(workers, cores):.1f}",
            f"{rate / single:.2f}" if single and workers else "",
            f"{speed.busy_cores:.1f}",
            f"{rate * stages.stored_bytes / 1e6:.1f}",
        )
    table.caption = f"{cores} CPUs; scaling is relative to one worker process."
    return table


def _measure_evaluation(data: DataConfig, batch_size: int, seconds: float) -> str:
    """Measures the evaluation input; returns a line of text."""
    with progress.track("measuring the evaluation input"):
        source: Source = make_source(data, data.eval_split)
        batches = EvalBatches(data, source, batch_size, max_padded_shapes=MAX_PADDED_SHAPES)
        rate = evaluation_throughput(batches, seconds)
    readers = f"{batches.workers} worker processes" if batches.workers else f"{_THREADS} threads"
    unit = "persons" if data.keypoints else "images"
    return f"evaluation input: {rate:.1f} {unit}/s of {len(source)}, by {readers}"
