"""Inference: logits and feature maps of a network."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gsto_jax.losses import FINAL_STAGE
from gsto_jax.models.base import Outputs
from gsto_jax.training.task import Task

Maps = dict[str, Float[Array, "b h w"]]
"""Gates and channel means of branches, by name."""


def forward(task: Task, variables: Any, images: Float[Array, "b h w c"]) -> Outputs:
    """Applies the network to normalized images. The logits are at least float32."""
    outputs = task.model.apply(variables, images)
    assert isinstance(outputs, Outputs)
    dtype = jnp.promote_types(outputs.logits.dtype, jnp.float32)
    return outputs.replace(logits=outputs.logits.astype(dtype))  # type: ignore[attr-defined]


def feature_maps(outputs: Outputs) -> Maps:
    """Returns the feature maps that explain a prediction.

    Returns:
      "branch/0" and so on, the channel means of the branches of the last stage (paper, Figure 1),
      and "gate/NAME", each `b h_i w_i` float32.
    """
    last = outputs.branches[FINAL_STAGE]
    maps = {f"branch/{n}": x.astype(jnp.float32).mean(-1) for n, x in enumerate(last)}
    return maps | {
        f"gate/{name}": gate[..., 0].astype(jnp.float32) for name, gate in outputs.gates.items()
    }
