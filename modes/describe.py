"""Prints parameters and multiply-accumulates by stage."""

from typing import Any

from gsto_jax import reporting
from gsto_jax.config import Config
from gsto_jax.tables import describe_table
from modes.terminal import make_show, plain_values


def run(args: Any) -> None:
    """Describes the network. Raises UserError."""
    values = plain_values(args.config)
    data = values.pop("data")
    settings = Config.from_dict(values)
    names = data["keypoints"]["names"] if settings.task == "pose" else data["classes"]
    with reporting.stage("counting parameters"):
        table = describe_table(settings, len(names), data["crop"])
    make_show()(table)
