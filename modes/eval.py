"""Evaluates a checkpoint of a run."""

from typing import Any

from gsto_jax import progress
from gsto_jax.devices.compilation_cache import use_compilation_cache
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs.experiment import Experiment, load_for_evaluation
from modes import run_setup


def run(args: Any) -> None:
    """Runs the mode."""
    task, data, values = run_setup.parse_config(args.config)
    log = run_setup.make_logger()
    mesh = make_mesh(spatial_shards=task.config.parallel.spatial_shards)
    data = run_setup.choose_workers(data, task.config.train.batch_size)
    workdir, checkpoints = run_setup.open_run(args)
    with progress.track("reading the data"):
        eval_set, source = run_setup.make_eval_set(task, data, values, mesh)
    run_setup.check_hosts_agree(args, values, {"the evaluation set": source})
    run_setup.log_warnings(source.warnings, log)
    workdir.check_shared()
    use_compilation_cache(task.config.run.compilation_cache, workdir.path)
    checkpoint = load_for_evaluation(workdir, task, mesh, values, log, checkpoints)
    experiment = Experiment(
        task=task,
        config=values,
        mesh=mesh,
        workdir=workdir,
        train_set=checkpoint.record["train_set"],
        eval_set=eval_set,
        log=log,
    )
    run_setup.log_compilation(eval_set, log)
    experiment.evaluate(checkpoint.state)
    log(f"checkpoint  {checkpoint.path}")
