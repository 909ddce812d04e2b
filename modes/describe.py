"""Prints parameters and multiply-accumulates by stage."""

from typing import Any

from gsto_jax.tables import describe_table
from modes.common import read_settings
from modes.terminal import make_show


def run(args: Any) -> None:
    """Describes the network. Raises UserError."""
    task, _, _ = read_settings(args.config)
    make_show()(describe_table(task.config, task.num_classes))
