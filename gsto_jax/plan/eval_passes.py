"""Passes of the network that an evaluation image needs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gsto_jax.segmentation.protocol import protocol_from_config
from gsto_jax.types import Size


@dataclass(frozen=True)
class EvalPasses:
    """The network's passes over an image.

    Attributes:
      step: "eval" for the whole image in one pass, or "eval_window" for the network alone.
      size: (h, w) of the largest input of the network.
      passes: number of passes of this size per image; smaller ones count by their area.
      description: the passes in words.
    """

    step: str
    size: Size
    passes: float
    description: str


def eval_passes(config: Mapping[str, Any], image_size: Size) -> EvalPasses:
    """Returns the passes of an evaluation.

    Args:
      config: all config options as plain values.
      image_size: (h, w) of an image; unused for poses, which are cropped.
    """
    flips = 2 if config["eval"]["flip"] else 1
    if config["task"] in ("pose", "classification"):
        height, width = config["data"]["crop"]
        return EvalPasses("eval", (height, width), flips, f"{flips} x {height}x{width}")
    protocol = protocol_from_config(config)
    if protocol.is_unscaled_single_pass([image_size]):
        height, width = protocol.padded(image_size)
        return EvalPasses("eval", (height, width), 1, f"whole at {height}x{width}")
    plans = protocol.scale_plans([image_size])
    largest = max((plan.shape for plan in plans), key=math.prod)
    passes = sum(flips * plan.count * math.prod(plan.shape) for plan in plans) / math.prod(largest)
    inputs = " + ".join(f"{flips * x.count} x {x.shape[0]}x{x.shape[1]}" for x in plans)
    return EvalPasses("eval_window", largest, passes, inputs)
