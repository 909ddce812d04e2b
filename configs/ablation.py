"""Ablations: the rows of the paper's Tables 1 to 4.

    python main.py --config=configs/ablation.py:row=t1-gfm
    python main.py --config=configs/ablation.py:row=t1-gfm,data=scenes,mini

`:t1-gfm` is short for `:row=t1-gfm`. `data=` selects the data and recipe of another config:
`cityscapes` (the paper's, the default), `camvid` or `scenes`. `mini` replaces the row's backbone by
a narrow one that trains in minutes on two CPU cores. `python main.py --mode=tables` prints the
counts of the rows, and the configs that train those of the other tables.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import base, camvid_w18s, cityscapes_w18s, quickstart
from gsto_jax.models import paper_tables

DATA = {"cityscapes": cityscapes_w18s, "camvid": camvid_w18s, "scenes": quickstart}
"""Configs by value of `data=`."""
ROWS = {
    row.key: row for row in sorted(paper_tables.ROWS, key=lambda row: row.table) if row.table <= 4
}
"""Rows of the paper's tables by value of `row=`."""


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `:row=`, `:data=`, `:mini` and the arguments of `data=`."""
    items = [item for item in (arg or "").split(",") if item]
    items = [f"row={item}" if item in ROWS else item for item in items]
    row = _value(items, "row", ROWS, default="t4-gsto-w18")
    data = _value(items, "data", DATA, default="cityscapes")
    config = DATA[data].get_config()
    config.name = f"{row}-{data}"
    network = ROWS[row]
    config.model.variant = network.variant
    hrnet = config.model.hrnet
    hrnet.update(dataclasses.asdict(network.gsto))
    hrnet.attention, hrnet.attention_position = network.attention.kind, network.attention.position
    setters: dict[str, base.Setter] = {"row=": _applied, "data=": _applied, "mini": set_mini}
    if data == "cityscapes":
        setters |= cityscapes_w18s.CITYSCAPES_SETTERS
    return base.apply_arguments(config, ",".join(items), setters)


def _value(items: list[str], name: str, choices: Mapping[str, Any], default: str) -> str:
    """Returns the value of the last `NAME=VALUE`. Raises ValueError if it is not a choice."""
    values = [item.partition("=")[2] for item in items if item.startswith(f"{name}=")]
    value = values[-1] if values else default
    if value not in choices:
        raise ValueError(f":{name}= must be one of {', '.join(choices)}; got {value!r}")
    return value


def _applied(config: ConfigDict, value: str) -> None:
    """Changes nothing: rows and datasets are applied before all other arguments."""


def set_mini(config: ConfigDict) -> None:
    """Sets the backbone of `quickstart.py`, and keeps the gates of the row."""
    config.name += "-mini"
    config.model.variant = "mini"
