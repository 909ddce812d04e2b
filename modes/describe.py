"""Prints the parameters and multiply-accumulates of a network by stage."""

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from rich.table import Table

from configs.loading import plain_values
from gsto_jax import progress
from gsto_jax.config import Config
from gsto_jax.models.counts import Count, count_by_module
from gsto_jax.models.paper_tables import POSE_SIZE, SIZE, find_published_row
from gsto_jax.training.network import build_network
from modes.terminal_output import log

IMAGENET_SIZE = (224, 224)
"""Size of an image at which classification networks are counted."""


def run(args: Any) -> None:
    """Runs the mode."""
    values = plain_values(args.config)
    data = values.pop("data")
    config = Config.from_dict(values)
    names = data["keypoints"]["names"] if config.task == "pose" else data["classes"]
    with progress.track("counting parameters"):
        table = describe_table(config, len(names), data["crop"], data["channels"])
    log(table)


def describe_table(
    config: Config, outputs: int, crop: Sequence[int] = (), channels: int = 3
) -> Table:
    """Builds a table of exact parameters and MACs by stage, next to the paper's counts.

    Args:
      config: the config.
      outputs: number of classes or joints.
      crop: (h, w) of a training crop, to count its MACs too; empty for the paper's size only.
      channels: channels of the image.
    """
    size, unit = (POSE_SIZE, "joints") if config.task == "pose" else (SIZE, "classes")
    size = IMAGENET_SIZE if config.task == "classification" else size
    has_crop = len(crop) == 2 and tuple(crop) != size
    net, model = build_network(config.model, outputs, in_channels=channels), config.model
    counts = _counts_by_stage(net, size)
    crop_counts = _counts_by_stage(net, (crop[0], crop[1])) if has_crop else {}
    name = model.variant + (f" with {model.context_net.module}" if model.is_context_net else "")
    title = f"{config.name}: {name}, {outputs} {unit}, one image {size[0]}x{size[1]}"
    title += f" of {channels} channel{'s' * (channels > 1)}" if channels != 3 else ""
    table = Table(title=title, title_justify="left", caption_justify="left")
    columns = ["stage", "conv parameters", "conv+BN parameters", "MACs"]
    columns += [f"MACs, data.crop {crop[0]}x{crop[1]}"] if has_crop else []
    for column in columns:
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    for stage, count in counts.items():
        crop_macs = [str(crop_counts[stage].macs)] if has_crop else []
        if stage == "total":
            table.add_section()
        table.add_row(stage, str(count.conv_params), str(count.params), str(count.macs), *crop_macs)
    total = counts["total"]
    rounded = [f"{n / 1e6:.2f}M" for n in (total.conv_params, total.params)]
    totals = [total, crop_counts["total"]] if has_crop else [total]
    table.add_row("", *rounded, *(f"{count.gmacs:.1f} x 2^30" for count in totals))
    hrnet = model.hrnet
    row = find_published_row(
        model.variant, hrnet.gsto, outputs, hrnet.head, size, hrnet.attention_spec
    )
    if row is None or channels != 3:
        table.caption = "The paper prints no counts of this network."
    else:
        params = ("", row.params) if row.is_pose else (row.params, "")
        table.add_row("paper", *params, f"{row.gflops} x 2^30")
        table.caption = f"Paper: {row.title}."
    return table


def _counts_by_stage(net: nn.Module, size: tuple[int, int]) -> dict[str, Count]:
    """Returns the counts of each stage, then their total."""
    counts: dict[str, Count] = {}
    for name, count in count_by_module(net, size).items():
        stage = re.match(r"stem|head|[a-z]+\d?", name)[0]  # type: ignore[index]
        counts[stage] = counts.get(stage, Count()) + count
    return counts | {"total": sum(counts.values(), Count())}
