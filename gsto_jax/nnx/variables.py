"""Conversion between the state of NNX models and the variables of linen modules."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

COLLECTIONS: dict[str, type[nnx.Variable]] = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
"""Kind of NNX variable of each of linen's collections."""


def linen_variables(model: nnx.Module) -> dict[str, Any]:
    """Returns the parameters and running statistics of an NNX model as linen's variables.

    Args:
      model: any NNX model; its `nnx.Param` become "params", its `nnx.BatchStat` "batch_stats".
    """
    states = {
        collection: nnx.to_pure_dict(nnx.state(model, kind))
        for collection, kind in COLLECTIONS.items()
    }
    return {collection: state for collection, state in states.items() if state}


def load_linen_variables(model: nnx.Module, variables: Mapping[str, Any]) -> None:
    """Sets the parameters and running statistics of an NNX model to linen's variables, in place.

    Raises:
      ValueError: the names or shapes of the variables are not those of the model.
    """
    expected = flatten_dict(linen_variables(model))
    values = flatten_dict(check_collections(variables))
    for problem, paths in (
        ("lack", expected.keys() - values.keys()),
        ("have, unlike the model,", values.keys() - expected.keys()),
    ):
        if paths:
            names = sorted("/".join(map(str, path)) for path in paths)
            raise ValueError(f"the variables {problem} {', '.join(names)}")
    for path, value in values.items():
        if value.shape != expected[path].shape:
            raise ValueError(
                f"{'/'.join(map(str, path))} must have the shape {expected[path].shape}; "
                f"got {value.shape}"
            )
    for state in unflatten_dict(values).values():
        nnx.update(model, jax.tree.map(jnp.asarray, state))


def check_collections(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns linen's variables, or raises ValueError for an unknown collection."""
    if unknown := variables.keys() - COLLECTIONS.keys():
        raise ValueError(
            f"variables must have the collections {', '.join(COLLECTIONS)}; got {sorted(unknown)}"
        )
    return variables
