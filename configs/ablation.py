"""The rows of the paper's Tables 1 to 4, each a word: what a part of the network is worth.

    python main.py --config=configs/ablation.py:row=t1-gfm
    python main.py --config=configs/ablation.py:row=t1-gfm,data=scenes,mini

`:t1-gfm` is short for `:row=t1-gfm`. `data=` takes `cityscapes` (the paper's, and what is meant
without the word), `camvid` or `scenes`, each with the recipe of its own configuration; `mini` is a
narrow body that two cores train in minutes, in place of the row's. `python main.py --mode=tables`
prints what the rows count. Table 5 has no rows here: what it compares is not known to us. Table 10
is `coco_pose_w32`, `coco_pose_w48`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import base, camvid_w18s, cityscapes_w18s, quickstart
from configs.base import Word
from configs.cityscapes_w18s import CITYSCAPES_WORDS

DATA = {"cityscapes": cityscapes_w18s, "camvid": camvid_w18s, "scenes": quickstart}
"""The configurations whose data and recipe `data=` takes."""


def _row(gfm: bool, kind: str = "none", *stages: int, **settings: Any) -> dict[str, Any]:
    """Settings of a network: GFM or not, and after which stages which GTM."""
    gtm = tuple(kind if stage in stages else "none" for stage in (1, 2, 3))
    return {"variant": "w18_small_v2", "gfm": gfm, "gtm": gtm, **settings}


def _other(kind: str, place: str) -> dict[str, Any]:
    return _row(False, attention=kind, attention_place=place)


ROWS = {
    "t1-baseline": _row(False),
    "t1-baseline-sup": _row(False, "head_only", 1, 2, 3),
    "t1-gfm": _row(True),
    "t1-gtm-unsup": _row(False, "unsupervised", 1, 2, 3),
    "t1-gtm-sup": _row(False, "supervised", 1, 2, 3),
    "t1-both": _row(True, "supervised", 1, 2, 3),
    "t2-gfm": _row(True),
    "t2-gtm-3": _row(True, "supervised", 3),
    "t2-gtm-23": _row(True, "supervised", 2, 3),
    "t2-gtm-123": _row(True, "supervised", 1, 2, 3),
    "t3-channel-block": _other("channel", "block"),
    "t3-channel-layer": _other("channel", "layer"),
    "t3-channel-transfer": _other("channel", "transfer"),
    "t3-spatial-block": _other("spatial", "block"),
    "t3-spatial-layer": _other("spatial", "layer"),
    "t3-spatial-transfer": _row(True, "unsupervised", 1, 2, 3),
    "t4-hrnetv2-w18": _row(False),
    "t4-gsto-w18": _row(True, "supervised", 2, 3),
    "t4-hrnetv2-w48": _row(False, variant="w48"),
    "t4-gsto-w48": _row(True, "supervised", 2, 3, variant="w48"),
}
"""Settings of the network by row; `gsto_jax.models.published.ROWS` has the printed figures."""


def get_config(arg: str | None = None) -> ConfigDict:
    """`row=`, by default GSTO-HRNet-W18-Small-v2; `data=`; `mini`; and what the data set knows."""
    given = (arg or "").split(",")
    arg = ",".join(f"row={word}" if word in ROWS else word for word in given)
    row = _choice(arg, "row", ROWS, "t4-gsto-w18")
    data = _choice(arg, "data", DATA, "cityscapes")
    config = DATA[data].get_config()
    config.name = f"{row}-{data}"
    config.model.update(ROWS[row])
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
    """Rows and data sets come first, and the other words change them."""


def set_mini(config: ConfigDict) -> None:
    """The body of `quickstart`, with the gates of the row."""
    config.name += "-mini"
    config.model.variant = "mini"
