"""GSTO in an FPN's top-down path: supervised gates with a loss of their own.

    python examples/fpn.py

trains the plain and the gated network for 40 steps on toy images, in about a minute on a CPU.
`GatedTopDown` replaces `TopDown`, and `loss_fn` supervises the gates' class logits. docs/porting.md
explains both.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax import Array

from gsto_jax import SupervisedGSTO, resize
from gsto_jax.losses import cross_entropy

CLASSES = 3
WIDTHS = (8, 16, 32)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class Backbone(nn.Module):
    """A backbone with feature maps at strides 2, 4 and 8."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> list[Array]:
        """`b h w 3` -> maps `b h/2^n w/2^n c_n`."""
        maps = []
        for n, width in enumerate(WIDTHS):
            x = nn.Conv(width, (3, 3), strides=2, use_bias=False, name=f"conv{n}")(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name=f"bn{n}")(x))
            maps.append(x)
        return maps


def double(x: Array) -> Array:
    """Upsamples `b h w c` to `b 2h 2w c` by nearest neighbors."""
    return resize(x, (2 * x.shape[1], 2 * x.shape[2]), "nearest")


class TopDown(nn.Module):
    """Plain top-down path: adds the upsampled coarser level to each lateral map."""

    width: int = 16

    @nn.compact
    def __call__(self, maps: Sequence[Array], train: bool) -> tuple[list[Array], list[Array]]:
        """Maps from fine to coarse -> levels from coarse to fine, and no class logits."""
        laterals = [nn.Conv(self.width, (1, 1), name=f"lateral{n}")(x) for n, x in enumerate(maps)]
        levels, predictions = laterals[-1:], []
        for lateral in laterals[-2::-1]:
            up = double(levels[-1])
            levels.append(lateral + up)
        return levels, predictions


class GatedTopDown(nn.Module):
    """The same path with GSTO: gates a level by its own class prediction before upsampling."""

    width: int = 16

    @nn.compact
    def __call__(self, maps: Sequence[Array], train: bool) -> tuple[list[Array], list[Array]]:
        """Maps from fine to coarse -> levels from coarse to fine, and their class logits."""
        laterals = [nn.Conv(self.width, (1, 1), name=f"lateral{n}")(x) for n, x in enumerate(maps)]
        levels, predictions = laterals[-1:], []
        for lateral in laterals[-2::-1]:
            gsto = SupervisedGSTO(double, CLASSES, name=f"gsto{len(levels)}")
            up, logits, _ = gsto(levels[-1], train)
            predictions.append(logits)
            levels.append(lateral + up)
        return levels, predictions


class FPN(nn.Module):
    """A backbone, a top-down path, and a classifier on the finest level."""

    top_down: type[nn.Module] = TopDown

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> tuple[Array, list[Array]]:
        """`b h w 3` -> class logits `b h/2 w/2 k`, and the gates'; h and w are multiples of 8."""
        maps = Backbone(name="backbone")(image, train)
        levels, predictions = self.top_down(name="top_down")(maps, train)
        return nn.Conv(CLASSES, (3, 3), name="classifier")(nn.relu(levels[-1])), predictions


@partial(jax.jit, static_argnums=0)
def train_step(
    model: nn.Module, variables: Any, momentum: Any, image: Array, labels: Array
) -> tuple[Any, Any, Array]:
    """Takes a step of SGD; returns variables, momentum, and the loss without supervision."""

    def loss_fn(params: Any) -> tuple[Array, Any]:
        state = {**variables, "params": params}
        (logits, predictions), updated = model.apply(state, image, True, mutable=["batch_stats"])
        loss = cross_entropy(logits, labels)
        supervision = sum(cross_entropy(p, labels) for p in predictions)
        return loss + 0.4 * supervision, (loss, updated)

    gradient, (loss, updated) = jax.grad(loss_fn, has_aux=True)(variables["params"])
    updates, momentum = OPTIMIZER.update(gradient, momentum)
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params, **updated}, momentum, loss


def random_squares(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noisy images `b h w 3` of colored squares, and their label maps `b h w`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=(8, 4, 4)).repeat(8, 1).repeat(8, 2)
    image = np.eye(3)[labels] + rng.normal(size=(*labels.shape, 3))
    return image.astype(np.float32), labels


def train(model: nn.Module, steps: int) -> tuple[Any, list[float]]:
    """Trains from scratch; returns the variables and the loss of each step."""
    key = jax.random.key(0, impl="rbg")  # compiles faster than the default
    variables = jax.jit(model.init)(key, random_squares(0)[0])
    momentum = OPTIMIZER.init(variables["params"])
    losses = []
    for step in range(steps):
        variables, momentum, loss = train_step(model, variables, momentum, *random_squares(step))
        losses.append(float(loss))
    return variables, losses


def main(steps: int = 40) -> None:
    """Trains both networks and prints their losses."""
    for name, model in {"plain": FPN(), "with GSTO": FPN(top_down=GatedTopDown)}.items():
        variables, losses = train(model, steps)
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        print(f"{name:9}  {count} parameters, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    print("The losses show that both networks train, not which one is better.")


if __name__ == "__main__":
    main()
