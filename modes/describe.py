"""Prints parameters and multiply-accumulates by stage."""

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from rich.table import Table

from gsto_jax import progress
from gsto_jax.config import Config
from gsto_jax.models.counts import Count, count_by_module
from gsto_jax.models.published import POSE_SIZE, SIZE, find_published_row
from gsto_jax.training.network import network
from modes.terminal_output import make_show, plain_values


def run(args: Any) -> None:
    """Describes the network. Raises UserError."""
    values = plain_values(args.config)
    data = values.pop("data")
    settings = Config.from_dict(values)
    names = data["keypoints"]["names"] if settings.task == "pose" else data["classes"]
    with progress.track("counting parameters"):
        table = describe_table(settings, len(names), data["crop"])
    make_show()(table)


def describe_table(config: Config, outputs: int, crop: Sequence[int] = ()) -> Table:
    """Builds a table of the exact parameters and MACs by stage, beside the paper's figures.

    Args:
      config: the settings.
      outputs: how many classes, or joints.
      crop: (h, w) of a training sample, to count MACs there too; empty for the paper's size alone.
    """
    size, unit = (POSE_SIZE, "joints") if config.task == "pose" else (SIZE, "classes")
    own = (crop[0], crop[1]) if len(crop) == 2 and tuple(crop) != size else None
    model_of_counts = network(config.model, outputs)
    stages = _counts_by_stage(model_of_counts, size)
    own_stages = _counts_by_stage(model_of_counts, own) if own else {}
    total = sum(stages.values(), Count())
    model, (height, width) = config.model, size
    body = model.variant + (f" with {model.context_net.module}" if model.is_context_net else "")
    title = f"{config.name}: {body}, {outputs} {unit}, one image {height}x{width}"
    table = Table(title=title, title_justify="left")
    columns = ["part", "conv parameters", "conv+BN parameters", "MACs"]
    if own:
        columns.append(f"MACs, data.crop {own[0]}x{own[1]}")
    for column in columns:
        table.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
    own_total = sum(own_stages.values(), Count())
    for stage, c in (stages | {"total": total}).items():
        own_macs = [str((own_stages | {"total": own_total})[stage].macs)] if own else []
        if stage == "total":
            table.add_section()
        table.add_row(stage, str(c.conv_params), str(c.params), str(c.macs), *own_macs)
    rounded = [f"{n / 1e6:.2f}M" for n in (total.conv_params, total.params)]
    rounded += [f"{c.gmacs:.1f} x 2^30" for c in ([total, own_total] if own else [total])]
    table.add_row("", *rounded)
    hrnet = model.hrnet
    row = find_published_row(
        model.variant, hrnet.gsto, outputs, hrnet.head, size, hrnet.attention_spec
    )
    if row is None:
        table.caption = "The paper prints no count for this network."
    else:
        params = ("", row.params) if row.is_pose else (row.params, "")
        table.add_row("paper", *params, f"{row.gflops} x 2^30")
        table.caption = f"Paper: {row.title}."
    table.caption_justify = "left"
    return table


def _counts_by_stage(model: nn.Module, size: tuple[int, int]) -> dict[str, Count]:
    stages: dict[str, Count] = {}
    for part, part_count in count_by_module(model, size).items():
        stage = re.match(r"stem|head|[a-z]+\d?", part)[0]  # type: ignore[index]
        stages[stage] = stages.get(stage, Count()) + part_count
    return stages
