"""Linen modules as NNX modules, and the base of the layers."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.nnx.variables import COLLECTIONS, check_collections, linen_variables
from gsto_jax.ops.checks import COUNT

_SIZE = 32
"""Height and width of the map (of branch 0) with which a layer's variables are initialized."""


class FromLinen(nnx.Module):
    """A linen layer or network of this package and its variables, as an NNX module.

    Parameters are `nnx.Param` and running statistics `nnx.BatchStat`, under linen's names, so that
    `nnx.jit`, `nnx.grad`, `nnx.Optimizer` and `nnx.split` work as with any module. As with
    `nnx.BatchNorm`, a new module is in training mode, and `train()`, `eval()` and
    `nnx.view(model, use_running_average=...)` choose the mode.

    Attributes:
      linen: the linen module.
      use_running_average: whether BN uses the running statistics instead of the batch's.

    Example:
      >>> linen_module = gsto_jax.HRNet(VARIANTS["w18_small_v2"], GSTOSpec(), num_classes=19)
      >>> model = FromLinen(linen_module, initial_variables(linen_module, seed=0))
      >>> model.eval()
      >>> outputs = model(jnp.ones((1, 64, 64, 3)))
    """

    def __init__(self, module: nn.Module, variables: Mapping[str, Any]) -> None:
        """Takes a linen module, called as `module(x)` or `module(x, train)`, and its variables.

        Raises:
          ValueError: the variables have other collections than "params" and "batch_stats".
        """
        self.linen = module
        self.use_running_average = False
        flat: dict[tuple[str, ...], nnx.Variable] = {}
        for (collection, *path), value in flatten_dict(check_collections(variables)).items():
            flat[tuple(path)] = COLLECTIONS[collection](jnp.asarray(value))
        for name, value in unflatten_dict(flat).items():
            setattr(self, name, nnx.data(value))

    def __call__(self, x: Any, train: bool | None = None) -> Any:
        """Computes what the linen module does, and in training updates the running statistics.

        Args:
          x: input of the linen module.
          train: whether BN uses the statistics of the batch; None for the mode of this module.
        """
        if not takes_train(self.linen):
            return self.linen.apply(linen_variables(self), x)
        if not self.is_training(train):
            return self.linen.apply(linen_variables(self), x, train=False)
        output, updated = self.linen.apply(
            linen_variables(self), x, train=True, mutable=["batch_stats"]
        )
        nnx.update(self, updated.get("batch_stats", {}))
        return output

    def is_training(self, train: bool | None = None) -> bool:
        """Returns `train`, or whether the module is in training mode if that is None."""
        return not self.use_running_average if train is None else train

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets the mode in `nnx.view`.

        Args:
          use_running_average: whether BN uses the running statistics; None leaves it.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


class ConvertedLayer(FromLinen):
    """Base of the layers: initializes the linen layer's variables for inputs of given channels."""

    linen_class: ClassVar[type[nn.Module]]
    channels_rule: ClassVar["staticmethod[[str, Any], None]"] = staticmethod(COUNT)

    def __init__(
        self, channels: int | Sequence[int], *args: Any, rngs: nnx.Rngs, **kwargs: Any
    ) -> None:
        """Initializes the variables as the linen layer's `init` does with the key `rngs.params()`.

        Args:
          channels: channels of the input; for layers on branches those of each branch, highest
            resolution first.
          *args: arguments of the linen layer.
          rngs: random number generators.
          **kwargs: arguments of the linen layer.

        Raises:
          TypeError, ValueError: an invalid argument.
        """
        type(self).channels_rule(f"{type(self).__name__}: channels", channels)
        args = tuple(_hashable(value) for value in args)
        kwargs = {name: _hashable(value) for name, value in kwargs.items()}
        module = self.linen_class(*args, **kwargs)
        super().__init__(module, initial_layer_variables(module, channels, rngs))


def initial_layer_variables(
    module: nn.Module, channels: int | Sequence[int], rngs: nnx.Rngs
) -> dict[str, Any]:
    """Returns the initial variables of a linen layer for inputs of the given channels."""
    x: Any = (
        [jnp.zeros((1, _SIZE >> j, _SIZE >> j, c)) for j, c in enumerate(channels)]
        if isinstance(channels, Sequence)
        else jnp.zeros((1, _SIZE, _SIZE, channels))
    )
    return jax.jit(module.init)(rngs.params(), x)  # one program, without the layer's computation


def takes_train(module: nn.Module | nnx.Module) -> bool:
    """Returns whether the call of a module has an argument `train`."""
    return "train" in inspect.signature(type(module).__call__).parameters


def _hashable(value: Any) -> Any:
    """Returns a list as a tuple: attributes of an NNX module are part of its static structure."""
    return tuple(value) if isinstance(value, list) else value
