"""Trains, evaluates and describes networks: `python main.py --config=configs/NAME.py`.

The one place where the library, the data pipelines and the configurations meet.
"""

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags
from ml_collections import ConfigDict

from configs import base, command_line

if TYPE_CHECKING:
    from rich.console import Console

    from data_pipelines import DataConfig, Source
    from gsto_jax.config import Config
    from gsto_jax.experiment import EvalSet, MetricWriter
    from gsto_jax.protocol import Protocol
    from gsto_jax.task import Task

Values = dict[str, Any]
DEFAULTS: Values = json.loads(base.get_config().to_json())
Show = Callable[[Any], None]

MODES = {
    "train": "train, or go on with the run in --workdir, then evaluate",
    "eval": "evaluate the newest checkpoint in --workdir",
    "submit": "write its predictions for the test split as a zip for the benchmark's server",
    "prepare": "make a data set of the downloads in --source, once",
    "audit": "check every label of both splits, and count its classes",
    "describe": "print parameters and multiply-accumulates by stage",
}


def main(argv: Sequence[str]) -> None:
    """Runs the mode that the flags name; ends with status 2 for what the user can mend."""
    from data_pipelines import DataError
    from gsto_jax.errors import TrainingError, UserError

    args = flags.FLAGS
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}: settings start with --config.")
        if args.mode == "prepare":
            prepare(args.config, args.source, args.partial)
        else:
            run(args.config, args.mode, args.workdir, args.fork_from)
    except (UserError, DataError) as error:
        command_line.refuse(str(error))
    except TrainingError as error:
        command_line.refuse(str(error), status=1)


def run(config: ConfigDict, mode: str, folder: str | None, fork_from: str | None) -> None:
    """Does what the mode says; checks settings, data and folders before anything compiles."""
    from gsto_jax.host_memory import keep_freed_memory

    keep_freed_memory()  # works only before JAX finds its devices

    from data_pipelines import DataConfig
    from gsto_jax.config import Config
    from gsto_jax.errors import UserError
    from gsto_jax.tables import describe_table

    values = json.loads(config.to_json())
    settings = Config.from_dict({key: value for key, value in values.items() if key != "data"})
    console = make_console()
    show = partial(console.print, soft_wrap=True)
    if settings.task == "pose" and mode != "audit":
        raise UserError(
            f"{settings.name} is a pose task, for which there is no network yet: its data can be "
            "prepared and audited"
        )
    if mode == "describe":
        show(describe_table(settings, len(config.data.classes)))
    elif mode == "audit":
        audit(DataConfig(**values["data"]), console)
    elif mode == "eval":
        evaluate(settings, DataConfig(**values["data"]), values, folder, show)
    elif mode == "submit":
        submit(settings, DataConfig(**values["data"]), values, folder, show)
    else:
        train(settings, DataConfig(**values["data"]), values, folder, fork_from, show)


def train(
    settings: "Config",
    data: "DataConfig",
    values: Values,
    folder: str | None,
    fork_from: str | None,
    show: Show,
) -> None:
    """Begins a run or goes on with it, then evaluates it."""
    import jax

    from data_pipelines import audit_sample, make_source, train_batches
    from gsto_jax import parallel
    from gsto_jax.experiment import Experiment
    from gsto_jax.interrupt import Interrupt
    from gsto_jax.workdir import Workdir, revision

    mesh = parallel.make_mesh()
    part = settings.train.batch_size // settings.train.accumulate
    whole = part == settings.train.batch_size
    name = "train.batch_size" if whole else "train.batch_size / config.train.accumulate"
    parallel.check_batch(part, mesh, name)
    parallel.check_batch(settings.eval.batch_size, mesh, "eval.batch_size")
    source = make_source(data, data.train_split)
    steps = settings.train.total_steps(len(source))
    task = replace(make_task(settings, data), steps=steps)
    shard = (jax.process_index(), jax.process_count())
    batches = train_batches(data, source, settings.train.batch_size, settings.seed, *shard)
    eval_set, eval_source = make_eval_set(settings, data)
    for split, pictures in ((data.train_split, source), (data.eval_split, eval_source)):
        found = audit_sample(pictures)
        ignored = found.pixels[data.ignore_label] / found.total
        seen = len(found.pixels.keys() - {data.ignore_label})
        show(
            f"labels of {split}: {found.records} of {len(pictures)} checked, {seen} of "
            f"{task.num_classes} classes, {ignored:.1%} ignored"
        )
    writes = settings.run.tensorboard and jax.process_index() == 0
    if settings.run.tensorboard:
        check_tensorboard()
    parallel.use_compilation_cache(settings.run.compilation_cache)
    workdir = Workdir(folder or f"runs/{settings.name}", hold=True)
    with Interrupt() as interrupt, contextlib.closing(batches), contextlib.closing(workdir):
        names = "\n".join(map(source.name, range(len(source))))
        train_set = f"{len(source)} pictures, names {zlib.crc32(names.encode()):08x}"
        this = Experiment(task, values, DEFAULTS, mesh, workdir, train_set, eval_set, show)
        state, position = this.start(Path(fork_from) if fork_from else None)
        if position is not None:
            batches.set_state(position)
        step = int(state.step)
        workdir.write_start([sys.executable, *sys.argv], step, revision(Path(__file__).parent))
        optim = settings.optim
        warmup = f", warm-up {optim.warmup_fraction:.0%}" if optim.warmup_fraction else ""
        show(
            f"{settings.name}: {steps} steps of {settings.train.batch_size} from {len(source)} "
            f"pictures, learning rate {optim.learning_rate:g}{warmup}, on "
            f"{mesh.size} x {jax.devices()[0].device_kind}"
        )
        show(f"workdir     {workdir.path}")
        if writes:
            this = replace(this, writer=make_writer(workdir.path / "tensorboard"))
        state = this.train(state, batches, interrupt)
        step = int(state.step)
        if step == steps and not interrupt():
            this.evaluate(state, batches.get_state(), interrupt)
        if interrupt():
            show(f"stopped by {interrupt.received}: the same command goes on from step {step}")
        elif step < steps:
            show(f"stopped at step {step}, as run.stop_at says")
        if (newest := workdir.checkpoints / str(step)).is_dir():
            show(f"checkpoint  {newest}")


def evaluate(
    settings: "Config", data: "DataConfig", values: Values, folder: str | None, show: Show
) -> None:
    """Evaluates the newest checkpoint of a run."""
    from gsto_jax import parallel, workdir
    from gsto_jax.experiment import Experiment, load_for_evaluation

    mesh = parallel.make_mesh()
    parallel.check_batch(settings.eval.batch_size, mesh, "eval.batch_size")
    task = make_task(settings, data)
    run_folder = workdir.existing(folder)
    eval_set, _ = make_eval_set(settings, data)
    found = load_for_evaluation(run_folder, task, mesh, values, show)
    parallel.use_compilation_cache(settings.run.compilation_cache)
    train_set = found.record["train_set"]
    this = Experiment(task, values, DEFAULTS, mesh, run_folder, train_set, eval_set, show)
    this.evaluate(found.state)
    show(f"checkpoint  {found.path}")


def submit(
    settings: "Config", data: "DataConfig", values: Values, folder: str | None, show: Show
) -> None:
    """Writes predictions of the newest checkpoint of a run for `data.test_split`, as label ids."""
    import jax

    from gsto_jax import parallel, workdir
    from gsto_jax.errors import UserError
    from gsto_jax.evaluate import evaluate as evaluate_network
    from gsto_jax.experiment import load_for_evaluation
    from gsto_jax.submission import SubmissionWriter, label_ids

    if jax.process_count() > 1:
        raise UserError("--mode=submit runs in one process: give it one host")
    if data.source == "scenes":
        raise UserError(f"{settings.name} draws its pictures: there is no server to submit them to")
    run_folder = workdir.existing(folder)
    data = replace(data, eval_split=data.test_split, eval_size=0, instance_sizes=())
    mesh = parallel.make_mesh()
    parallel.check_batch(settings.eval.batch_size, mesh, "eval.batch_size")
    task = make_task(settings, data)
    eval_set, source = make_eval_set(settings, data)
    path = run_folder.path / f"submission-{data.test_split}.zip"
    names = list(map(source.name, range(len(source))))
    ids = data.id_map or [(k, k) for k in range(task.num_classes)]
    writer = SubmissionWriter(path, label_ids(ids, task.num_classes), names)
    found = load_for_evaluation(run_folder, task, mesh, values, show)
    parallel.use_compilation_cache(settings.run.compilation_cache)
    with writer:
        look = (eval_set.batches, mesh, eval_set.protocol)
        evaluate_network(task, found.state.variables, *look, on_batch=writer.write)
    show(f"{writer.written} pictures of {data.test_split}, {eval_set.protocol}")
    show(f"submission  {path}")
    show(f"checkpoint  {found.path}")


def prepare(config: ConfigDict, source: str | None, partial_set: bool) -> None:
    """Makes a data set of downloads; needs no JAX."""
    from rich.progress import Progress

    from data_pipelines import DataConfig, DataError
    from data_pipelines.builders import BUILDERS, prepare

    data = DataConfig(**json.loads(config.to_json())["data"])
    if data.source != "tfds" or data.name not in BUILDERS:
        raise DataError(
            f"{config.name} reads no data set that has to be prepared; those are"
            f" {', '.join(BUILDERS)}."
        )
    if not source:
        raise DataError("--mode=prepare needs --source, the folder of the downloads.")
    console = make_console()
    with Progress(console=console) as progress:
        bars: dict[str, Any] = {}

        def on_split(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(f"{data.name} {split}", total=total)
            progress.update(bars[split], completed=done)

        root, builder = Path(data.root).expanduser(), BUILDERS[data.name]()
        try:
            folder = prepare(
                builder,
                Path(source).expanduser(),
                root,
                data.storage,
                partial_set,
                os.cpu_count() or 1,
                on_split,
            )
        except KeyboardInterrupt:
            raise DataError("Interrupted: the same command goes on where this ended.") from None
    console.print(f"data set  {folder}", soft_wrap=True)


def make_console() -> "Console":
    """Where people read."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 100, highlight=False, markup=False)


def audit(data: "DataConfig", console: "Console") -> None:
    """Checks every label of both splits. Raises DataError if any is wrong."""
    from rich.progress import Progress

    from data_pipelines import DataError, make_source
    from data_pipelines import audit as audit_labels
    from gsto_jax.tables import audit_table

    problems: list[str] = []
    for split in dict.fromkeys((data.train_split, data.eval_split)):
        source = make_source(data, split)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task(split, total=len(source))
            found = audit_labels(source, on_record=partial(progress.advance, bar))
        title = f"{split}: {found.records} labels, {len(found.problems)} problems"
        if data.keypoints:
            units = ("joint", "labelled", "persons")
            table = audit_table(found, data.keypoints.names, data.ignore_label, title, units)
        else:
            table = audit_table(found, data.classes, data.ignore_label, title)
        console.print(table)
        problems += found.problems
    for problem in problems:
        console.print(problem, soft_wrap=True)
    if problems:
        raise DataError(f"{len(problems)} problems in the labels, named above.")


def make_task(settings: "Config", data: "DataConfig") -> "Task":
    """The task, without the length of the run."""
    from gsto_jax.task import Task

    weights = data.class_weights or None
    classes = len(data.classes)
    return Task(settings, classes, data.ignore_label, data.mean, data.std, class_weights=weights)


def make_eval_set(settings: "Config", data: "DataConfig") -> tuple["EvalSet", "Source"]:
    """The split to evaluate on, and its pictures."""
    import jax

    from data_pipelines import EvalBatches, make_source
    from gsto_jax.experiment import EvalSet
    from gsto_jax.instance_scores import InstanceCounts
    from gsto_jax.visualize import PictureWriter

    chosen, protocol = settings.eval, make_protocol(settings, data)
    source = make_source(data, data.eval_split, instances=any(data.instance_sizes))

    def pictures(folder: Path) -> PictureWriter:
        look = (data.classes, data.palette, data.ignore_label)
        return PictureWriter(folder, *look, chosen.pictures, chosen.figures, source.name)

    host, hosts = jax.process_index(), jax.process_count()
    canvases = 6 if protocol.suits_any_canvas else chosen.canvases
    batches = EvalBatches(data, source, chosen.batch_size // hosts, host, hosts, canvases)

    def instances() -> InstanceCounts | None:
        sizes = data.instance_sizes or (0.0,) * len(data.classes)
        ids = dict(data.id_map) or {k: k for k in range(len(data.classes))}
        return InstanceCounts(data.categories, sizes, ids) if data.categories else None

    name, count = data.eval_split, len(source)
    return EvalSet(name, count, data.classes, batches, protocol, pictures, instances), source


def make_protocol(settings: "Config", data: "DataConfig") -> "Protocol":
    """How a picture is looked at in a test."""
    from gsto_jax.protocol import Protocol

    chosen = settings.eval
    return Protocol(
        scales=chosen.scales,
        flip=chosen.flip,
        window=chosen.window,
        crop=chosen.crop if any(chosen.crop) else data.crop,
        stride=chosen.stride,
        edge=chosen.edge,
        pad=data.mean if chosen.pad == "mean" else (0.0, 0.0, 0.0),
        score=chosen.score,
        base_size=data.base_size,
        fixed_size=data.fixed_size,
        flip_pairs=data.flip_pairs,
    )


def check_tensorboard() -> None:
    """Raises UserError unless the packages that TensorBoard's files need are installed."""
    from gsto_jax.errors import UserError

    # Found, not imported: that takes seconds, which a run that is refused should not.
    missing = [name for name in ("clu", "tensorboard", "tensorflow") if not find_spec(name)]
    if missing:
        raise UserError(
            f"run.tensorboard needs packages that are missing ({', '.join(missing)}): install "
            "gsto-jax[train], or give --config.run.tensorboard=False"
        )


def make_writer(folder: Path) -> "MetricWriter":
    """Writes for TensorBoard; here and not in the library, which knows no TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from clu.metric_writers import SummaryWriter

    return SummaryWriter(str(folder))


if __name__ == "__main__":
    app.run(main, flags_parser=partial(command_line.parse, settings=base.get_config(), modes=MODES))
