"""SGD and Adam as PyTorch defines them, optimizers of optax, and the EMA of parameters.

EMA is the exponential moving average.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jaxtyping import ArrayLike, Int

from gsto_jax.config import OptimConfig

Mask = Callable[[Any], Any] | None
"""Returns for each parameter whether weight decay applies; None: to all."""


_LIKE_ADAM = {"adamw": optax.adamw, "nadamw": optax.nadamw, "lamb": optax.lamb, "lion": optax.lion}
"""Optimizers of optax that take b1, b2, weight_decay and its mask."""


def make_optimizer(
    config: OptimConfig,
    *,
    learning_rate: Any,
    momentum: Any,
    weight_decay: Any,
    clip_norm: Any,
    undecayed: Collection[str] = (),
) -> optax.GradientTransformation:
    """Returns the optimizer of one step, whose updates are proportional to the learning rate.

    Args:
      config: kind of the optimizer, and options that are constants of a compiled step.
      learning_rate: learning rate of the step.
      momentum: momentum of "sgd" and "lars".
      weight_decay: weight decay.
      clip_norm: largest norm of the gradient of all parameters, before weight decay. Has no effect
        if the config's is 0.
      undecayed: paths of parameters without weight decay.
    """

    def schedule(step: Any) -> Any:
        return learning_rate

    multi_axis = None if config.decay_bn_and_bias else not_bn_or_bias
    mask = _decay_mask(multi_axis, undecayed)
    if config.kind == "sgd":
        optimizer = sgd(schedule, momentum, weight_decay, mask, nesterov=config.nesterov)
    elif config.kind == "adam":
        optimizer = adam(schedule, weight_decay, config.betas or (0.9, 0.999), mask)
    elif config.kind == "lars":
        masks = {"weight_decay_mask": mask or True, "trust_ratio_mask": multi_axis or True}
        optimizer = optax.lars(learning_rate, weight_decay, momentum=momentum, **masks)
    else:
        betas = dict(zip(("b1", "b2"), config.betas, strict=False))
        constructor = _LIKE_ADAM[config.kind]
        optimizer = constructor(learning_rate, weight_decay=weight_decay, mask=mask, **betas)
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return optimizer


def _decay_mask(mask: Mask, undecayed: Collection[str]) -> Mask:
    """Returns a mask less the parameters of the paths `undecayed`."""
    if not undecayed:
        return mask

    def decays(params: Any) -> Any:
        leaves = flatten_dict(mask(params) if mask else params, sep="/")
        kept = {
            path: path not in undecayed and (mask is None or leaf) for path, leaf in leaves.items()
        }
        return unflatten_dict(kept, sep="/")

    return decays


def not_bn_or_bias(params: Any) -> Any:
    """Returns for each parameter whether it is neither a scale or offset of BN nor a bias."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def sgd(
    schedule: optax.Schedule,
    momentum: float,
    weight_decay: float,
    mask: Mask = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Returns SGD as in PyTorch: `g += wd * p; buffer = momentum * buffer + g; p -= lr * buffer`.

    Weight decay acts on all parameters, BN and biases included, unless there is a mask. The
    learning rate multiplies the buffer, so a change of the rate takes effect immediately. With
    Nesterov momentum it multiplies `g + momentum * buffer`.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(schedule),
    )


def adam(
    schedule: optax.Schedule,
    weight_decay: float,
    betas: Sequence[float] = (0.9, 0.999),
    mask: Mask = None,
) -> optax.GradientTransformation:
    """Returns Adam as in PyTorch, which adds weight decay to the gradient."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=1e-8),
        optax.scale_by_learning_rate(schedule),
    )


def warmup_decay(decay: Any, step: Int[ArrayLike, "..."]) -> Array:
    """Returns the EMA decay of a step (from 0), `min(decay, (1 + step) / (10 + step))`.

    The lower decay of early steps lets the initial values fade quickly.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def update_ema(ema: Any, current: Any, decay: Any, step: Int[ArrayLike, ""]) -> Any:
    """Updates the EMA of a tree after a step (from 0), with `warmup_decay`."""
    keep = warmup_decay(decay, step)
    return jax.tree.map(
        lambda old, new: (keep * old + (1 - keep) * new).astype(old.dtype), ema, current
    )
