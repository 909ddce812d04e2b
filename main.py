"""Trains, evaluates and describes networks: `python main.py --config=configs/NAME.py`.

The one place where the library, the data pipelines and the configurations meet.
"""

import difflib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from configs import base

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from rich.console import Console

    from data_pipelines import DataConfig, Source
    from gsto_jax.task import Task
    from gsto_jax.train import Progress

MODES = {
    "train": "train, then evaluate",
    "eval": "evaluate the newest checkpoint in --workdir",
    "describe": "print parameters and multiply-accumulates by stage",
}


def main(argv: Sequence[str]) -> int:
    """Runs the mode that the flags name; returns the exit status, 2 for what the user can mend."""
    from data_pipelines import DataError
    from gsto_jax.errors import UserError

    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}: settings start with --config.")
        run(flags.FLAGS.config, flags.FLAGS.mode, flags.FLAGS.workdir)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(config: ConfigDict, mode: str, workdir: str | None) -> None:
    """Builds what the mode needs and checks all of it before anything compiles."""
    import jax
    from rich.console import Console

    from data_pipelines import DataConfig, make_source, train_batches
    from gsto_jax import checkpoint, parallel, train
    from gsto_jax.config import Config
    from gsto_jax.host_memory import keep_freed_memory
    from gsto_jax.tables import describe_table
    from gsto_jax.task import Task, initial_state

    keep_freed_memory()
    values = json.loads(config.to_json())
    settings = Config.from_dict({key: value for key, value in values.items() if key != "data"})
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False, markup=False)
    if mode == "describe":
        console.print(describe_table(settings, len(config.data.classes)))
        return

    data = DataConfig(**values["data"])
    mesh = parallel.make_mesh()
    parallel.check_batch(settings.eval.batch_size, mesh, "eval.batch_size")
    eval_source = make_source(data, data.eval_split)
    task = Task(settings, len(data.classes), data.ignore_label, data.mean, data.std)
    _use_compilation_cache(settings.run.compilation_cache)

    if mode == "train":
        parallel.check_batch(settings.train.batch_size, mesh, "train.batch_size")
        train_source = make_source(data, data.train_split)
        task = replace(task, steps=settings.train.total_steps(len(train_source)))
        shard = (jax.process_index(), jax.process_count())
        batches = train_batches(
            data, train_source, settings.train.batch_size, settings.seed, *shard
        )
        for source in (train_source, eval_source):
            _check_sample(source)
        folder = checkpoint.new_workdir(workdir, settings.name)
        console.print(
            f"{settings.name}: {task.steps} steps of {settings.train.batch_size} from "
            f"{len(train_source)} pictures, on {mesh.size} x {jax.devices()[0].device_kind}"
        )

        def report(progress: "Progress") -> None:
            console.print(_progress_line(progress), soft_wrap=True)

        state = initial_state(task, mesh)
        try:
            state = train.fit(task, state, batches, mesh, report)
        finally:
            batches.close()
        saved = checkpoint.save(folder, state, values)
    else:
        folder = checkpoint.existing_workdir(workdir)
        saved, made_by = checkpoint.newest(folder)
        _check_same_network(made_by, values)
        state = checkpoint.load_state(saved, task, mesh)

    _evaluate(task, state.variables, data, eval_source, mesh, folder, console)
    console.print(f"checkpoint  {saved}", soft_wrap=True)


def _evaluate(
    task: "Task",
    variables: Any,
    data: "DataConfig",
    source: "Source",
    mesh: "Mesh",
    folder: Path,
    console: "Console",
) -> None:
    from data_pipelines import eval_batches
    from gsto_jax import evaluate, tables
    from gsto_jax.visualize import PictureWriter

    settings = task.config.eval
    name = f"eval-{data.eval_split}"
    pictures = PictureWriter(
        folder / name, data.classes, data.palette, data.ignore_label, settings.pictures, source.name
    )
    started = time.perf_counter()
    batches = eval_batches(source, settings.batch_size)
    result = evaluate.evaluate(task, variables, batches, mesh, pictures.write)
    seconds = time.perf_counter() - started
    title = f"{task.config.name} on {data.eval_split}: {len(source)} pictures in {seconds:.0f} s"
    console.print(tables.score_table(result, data.classes, title))
    tables.write_scores(folder / name / "scores.csv", result, data.classes)
    console.print(f"mean IoU {100 * result.mean_iou:.2f}", style="bold")
    console.print(f"scores      {folder / name / 'scores.csv'}", soft_wrap=True)
    console.print(f"pictures    {folder / name} ({pictures.written} PNGs)", soft_wrap=True)


def _check_sample(source: "Source", count: int = 8) -> None:
    """Reads a few pictures spread over the source, so that bad data shows before a compile."""
    for index in range(0, len(source), -(-len(source) // count)):
        source[index]


def _check_same_network(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    from gsto_jax.config import differences
    from gsto_jax.errors import UserError

    training_only = ("init", "bn_momentum", "dtype")

    def network(values: dict[str, Any]) -> dict[str, Any]:
        model = {k: v for k, v in values["model"].items() if k not in training_only}
        return {"model": model, "data": {k: values["data"][k] for k in ("classes", "mean", "std")}}

    found = differences(network(theirs), network(ours))
    if found:
        raise UserError(
            "the checkpoint is of another network: "
            + "; ".join(found)
            + ". Give the --config that trained it"
        )


def _use_compilation_cache(folder: str) -> None:
    import jax

    if folder and jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))


def _progress_line(progress: "Progress") -> str:
    losses = {k: v for k, v in progress.scalars.items() if k != "learning_rate"}
    eta = str(timedelta(seconds=round(progress.eta)))
    return " | ".join(
        [
            f"step {progress.step:>{len(str(progress.steps))}}/{progress.steps}",
            f"{progress.rate:6.2f} steps/s",
            f"eta {eta}",
            *(f"{name} {value:.4f}" for name, value in losses.items()),
            f"lr {progress.scalars['learning_rate']:.5f}",
        ]
    )


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; one that cannot be read ends the program with one message."""
    known = list(_flat(base.get_config()))
    for arg in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", arg)
        if match and match[1] not in known:
            nearest = difflib.get_close_matches(match[1], known, n=1, cutoff=0)[0]
            _refuse(f"unknown setting config.{match[1]}: did you mean config.{nearest}?")
    try:
        # Reads the overrides at once, so it comes after the check.
        config_flags.DEFINE_config_file(
            "config", "configs/quickstart.py", "FILE[:WORDS]; --config.SECTION.FIELD=VALUE sets one"
        )
        flags.DEFINE_enum(
            "mode", "train", list(MODES), "; ".join(f"{k}: {v}" for k, v in MODES.items())
        )
        flags.DEFINE_string(
            "workdir", None, "folder of the run; when training, by default runs/NAME-DATE-TIME"
        )
        logging.set_verbosity(logging.WARNING)
        rest = flags.FLAGS(argv)
        _ = flags.FLAGS.config.name  # a file that cannot be loaded says so only when it is read
        return rest
    except Exception as error:  # a configuration is a program: it may fail in any way
        # Its traceback stands in the text: the last line counts.
        _refuse(re.sub(r"^\w+Error: ", "", str(error).strip().splitlines()[-1].strip()))


def _flat(config: ConfigDict, place: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{place}{name}.")
        else:
            yield f"{place}{name}"


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
