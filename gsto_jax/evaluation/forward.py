"""A network's outputs in evaluation: logits and the maps that explain them."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gsto_jax.losses import FINAL_STAGE
from gsto_jax.models.base import Outputs
from gsto_jax.training.task import Task

Maps = dict[str, Array]


def forward(task: Task, variables: Any, images: Array) -> Outputs:
    """Applies the network to normalized images `b h w 3`; its logits are at least float32."""
    outputs = task.model.apply(variables, images)
    assert isinstance(outputs, Outputs)
    dtype = jnp.promote_types(outputs.logits.dtype, jnp.float32)
    return outputs.replace(logits=outputs.logits.astype(dtype))  # type: ignore[attr-defined]


def feature_maps(outputs: Outputs) -> Maps:
    """Returns the maps that explain a prediction, `b h_i w_i` float32 each.

    They are "branch/0" and so on, the mean over the channels of each branch of the last stage
    (paper, Figure 1), and "gate/NAME".
    """
    last = outputs.branches[FINAL_STAGE]
    maps = {f"branch/{n}": x.astype(jnp.float32).mean(-1) for n, x in enumerate(last)}
    return maps | {
        f"gate/{name}": gate[..., 0].astype(jnp.float32) for name, gate in outputs.gates.items()
    }
