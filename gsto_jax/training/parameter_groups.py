"""Groups of parameters that patterns select: frozen, without weight decay, with rate factors.

A pattern is matched as in `fnmatch`, case-sensitively, against the path of a parameter, such as
"stage2_module0/branch0_block0/conv1/kernel", and the paths of the modules that contain it, such as
"stage2_module0". `*` matches slashes too.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.config import ModelConfig, OptimConfig


@dataclass(frozen=True)
class Frozen:
    """The frozen part of a network.

    Attributes:
      params: paths of the parameters that do not change.
      norms: paths of the BN layers that normalize by their running statistics in training, and do
        not update them.
    """

    params: frozenset[str] = frozenset()
    norms: frozenset[str] = frozenset()

    @property
    def batch_stats(self) -> frozenset[str]:
        """Paths of the running statistics that do not change."""
        return frozenset(f"{norm}/{name}" for norm in self.norms for name in ("mean", "var"))

    def restore(self, new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
        """Returns new variables with the frozen ones replaced by the old values."""
        paths = {"params": self.params, "batch_stats": self.batch_stats}
        return {
            name: merge(split(tree, paths[name])[0], split(old[name], paths[name])[1])
            for name, tree in new.items()
        }


def frozen_part(config: ModelConfig, variables: Mapping[str, Any]) -> Frozen:
    """Returns the part of a network that `model.freeze` and `model.freeze_bn` freeze.

    A BN layer is frozen if its scale and bias are.

    Args:
      config: options of the network.
      variables: variables of the network, or their shapes.

    Raises:
      UserError: a pattern matches no parameter, or all parameters are frozen.
    """
    paths = list(flatten_dict(variables["params"], sep="/"))
    groups = [select(pattern, paths) for pattern in config.freeze]
    for pattern, group in zip(config.freeze, groups, strict=True):
        config.require(group, "freeze", _expected(pattern, paths), pattern)
    params = frozenset[str]().union(*groups)
    config.require(len(params) < len(paths), "freeze", "patterns that leave parameters to train")
    statistics = flatten_dict(variables.get("batch_stats", {}), sep="/")
    norms = {path.rpartition("/")[0] for path in statistics}
    if not config.freeze_bn:
        norms = {norm for norm in norms if {f"{norm}/scale", f"{norm}/bias"} <= params}
    return Frozen(params, frozenset(norms))


def rate_factors(
    config: OptimConfig, params: Mapping[str, Any], frozen: Collection[str] = ()
) -> dict[str, float]:
    """Returns the factors of the learning rate by the paths of parameters; others have factor 1.

    Where several pairs of `optim.rates` match a parameter, the last one wins.

    Args:
      config: options of the optimizer.
      params: parameters of the network, or their shapes.
      frozen: paths of frozen parameters, which have no factor.

    Raises:
      UserError: a pattern matches no parameter that is trained.
    """
    paths = [path for path in flatten_dict(params, sep="/") if path not in frozen]
    factors: dict[str, float] = {}
    for pattern, factor in config.rates:
        group = select(pattern, paths)
        expected = _expected(pattern, paths, "parameters that are trained" if frozen else "")
        config.require(group, "rates", expected, pattern)
        factors |= dict.fromkeys(group, factor)
    return factors


def undecayed(
    config: OptimConfig, params: Mapping[str, Any], frozen: Collection[str] = ()
) -> frozenset[str]:
    """Returns the paths of the parameters that `optim.no_decay` takes out of weight decay.

    Args:
      config: options of the optimizer.
      params: parameters of the network, or their shapes.
      frozen: paths of frozen parameters.

    Raises:
      UserError: a pattern matches no parameter that is trained.
    """
    paths = [path for path in flatten_dict(params, sep="/") if path not in frozen]
    groups = [select(pattern, paths) for pattern in config.no_decay]
    for pattern, group in zip(config.no_decay, groups, strict=True):
        expected = _expected(pattern, paths, "parameters that are trained" if frozen else "")
        config.require(group, "no_decay", expected, pattern)
    return frozenset[str]().union(*groups)


def select(pattern: str, paths: Iterable[str]) -> list[str]:
    """Returns the paths that match a pattern, or that have a parent that does."""
    return [path for path in paths if any(fnmatchcase(p, pattern) for p in _with_parents(path))]


def _with_parents(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names) + 1)]


def _expected(pattern: str, paths: Sequence[str], kind: str = "") -> str:
    candidates = {path: None for leaf in paths for path in _with_parents(leaf)}
    nearest = difflib.get_close_matches(pattern.strip("*/"), candidates, n=1, cutoff=0.0)
    return f"patterns that each match {kind or 'a parameter'} (the nearest is {nearest[0]!r})"


def split(tree: Any, paths: Collection[str]) -> tuple[Any, Any]:
    """Splits a nested dict into one without the leaves at some paths, and one of these leaves."""
    if not paths:
        return tree, {}
    leaves = flatten_dict(tree, sep="/")
    rest = {path: leaf for path, leaf in leaves.items() if path not in paths}
    selected = {path: leaves[path] for path in paths}
    return unflatten_dict(rest, sep="/"), unflatten_dict(selected, sep="/")


def merge(tree: Any, other: Any) -> Any:
    """Merges two nested dicts with different leaves; the inverse of `split`."""
    if not other:
        return tree
    return unflatten_dict(flatten_dict(tree) | flatten_dict(other))


def with_rate_factors(
    optimizer: optax.GradientTransformation, factors: Mapping[str, float]
) -> optax.GradientTransformation:
    """Multiplies the updates of an optimizer by the factor at each parameter's path.

    This equals a learning rate per parameter as in PyTorch's parameter groups, for optimizers whose
    updates are proportional to the learning rate.
    """
    if not factors:
        return optimizer

    def scale(updates: Any, params: Any) -> Any:
        leaves = flatten_dict(updates, sep="/")
        scaled = {path: leaf * factors.get(path, 1.0) for path, leaf in leaves.items()}
        return unflatten_dict(scaled, sep="/")

    return optax.chain(optimizer, optax.stateless(scale))
