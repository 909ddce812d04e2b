"""The rows of the paper's Tables 1 to 4, each a word: what a part of the network is worth.

    python main.py --config=configs/ablation.py:row=t1-gfm
    python main.py --config=configs/ablation.py:row=t1-gfm,data=scenes,mini

`:t1-gfm` is short for `:row=t1-gfm`. `data=` takes `cityscapes` (the paper's, and what is meant
without the word), `camvid` or `scenes`, each with the recipe of its own configuration; `mini` is a
narrow body that two cores train in minutes, in place of the row's. `python main.py --mode=tables`
prints what the rows count. Table 5 has no rows here: what it compares is not known to us. Table 10
is `coco_pose_w32`, `coco_pose_w48`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import base, camvid_w18s, cityscapes_w18s, quickstart
from configs.base import Word
from configs.cityscapes_w18s import CITYSCAPES_WORDS
from gsto_jax.models.published import ROWS as TABLES

DATA = {"cityscapes": cityscapes_w18s, "camvid": camvid_w18s, "scenes": quickstart}
"""The configurations whose data and recipe `data=` takes."""


ROWS = {row.key: row for row in sorted(TABLES, key=lambda row: row.table) if row.table <= 4}
"""The networks by row."""


def get_config(arg: str | None = None) -> ConfigDict:
    """`row=`, by default GSTO-HRNet-W18-Small-v2; `data=`; `mini`; and what the dataset knows."""
    given = (arg or "").split(",")
    arg = ",".join(f"row={word}" if word in ROWS else word for word in given)
    row = _choice(arg, "row", ROWS, "t4-gsto-w18")
    data = _choice(arg, "data", DATA, "cityscapes")
    config = DATA[data].get_config()
    config.name = f"{row}-{data}"
    network = ROWS[row]
    config.model.variant = network.variant
    hrnet = config.model.hrnet
    hrnet.update(dataclasses.asdict(network.gsto))
    hrnet.attention, hrnet.attention_position = network.attention.kind, network.attention.position
    words: dict[str, Word] = {"row=": _is_set, "data=": _is_set, "mini": set_mini}
    return base.finish(config, arg, words | (CITYSCAPES_WORDS if data == "cityscapes" else {}))


def _choice(arg: str | None, word: str, choices: Mapping[str, Any], default: str) -> str:
    """What the word names, wherever it stands. Raises ValueError, listing the choices."""
    named = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    value = named.get(word, default)
    if value not in choices:
        raise ValueError(f":{word}={value} does not exist: use one of {', '.join(choices)}")
    return value


def _is_set(config: ConfigDict, value: str) -> None:
    """Rows and datasets come first, and the other words change them."""


def set_mini(config: ConfigDict) -> None:
    """The body of `quickstart`, with the gates of the row."""
    config.name += "-mini"
    config.model.variant = "mini"
