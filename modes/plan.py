"""Compiles the train and eval steps for TPUs that need not be here, and prints what they cost."""

from importlib.metadata import version
from typing import Any

import jax

from gsto_jax.errors import UserError
from gsto_jax.parallel import check_batch
from gsto_jax.plan.machines import memory_of, tpu_mesh
from gsto_jax.plan.measure import plan
from gsto_jax.plan.tables import plan_table
from modes.common import read_settings
from modes.terminal import make_show


def run(args: Any) -> None:
    """Plans. Raises UserError or DataError."""
    task, data, _ = read_settings(args.config)
    settings, show = task.config, make_show()
    if jax.process_count() > 1:
        raise UserError("--mode=plan runs in one process")
    jax.config.update("jax_platforms", "cpu")
    mesh, memory = tpu_mesh(args.topology), memory_of(args.topology)
    steps = [("train", settings.train.batch_size)]
    if settings.task == "segmentation":
        steps.append(("eval", mesh.size))
    for _, batch in steps:
        check_batch(batch, mesh, "train.batch_size")
    for step, batch in steps:
        found = plan(task, mesh, batch, data.crop, step)
        size = f"{data.crop[0]}x{data.crop[1]}"
        title = (
            f"{settings.name}, {step} step of {found.batch} x {size} a chip in "
            f"{settings.model.dtype}, on {args.topology}"
        )
        show(plan_table(found, memory, title))
    show(f"versions    jax {jax.__version__}, libtpu {version('libtpu')}")
