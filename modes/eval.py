"""Evaluates a checkpoint of a run."""

from typing import Any

from gsto_jax import progress
from gsto_jax.devices.mesh import make_mesh, use_compilation_cache
from gsto_jax.runs.experiment import Experiment, load_for_evaluation
from modes.run_setup import (
    agree,
    make_eval_set,
    read_settings,
    run_folder,
    show_compilation,
    show_warnings,
    shower,
)


def run(args: Any) -> None:
    """Evaluates. Raises UserError or DataError."""
    task, data, values = read_settings(args.config)
    settings, show = task.config, shower()
    mesh = make_mesh(spatial_shards=settings.parallel.spatial_shards)
    workdir, chosen = run_folder(args)
    with progress.track("reading the data"):
        eval_set, source = make_eval_set(task, data, values, mesh)
    agree(args, values, {"the evaluation set": source})
    show_warnings(source.warnings, show)
    workdir.check_shared()
    found = load_for_evaluation(workdir, task, mesh, values, show, chosen)
    use_compilation_cache(settings.run.compilation_cache)
    train_set = found.record["train_set"]
    this = Experiment(task, values, mesh, workdir, train_set, eval_set, show)
    show_compilation(eval_set, show)
    this.evaluate(found.state)
    show(f"checkpoint  {found.path}")
