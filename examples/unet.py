"""GSTO in a U-Net: gates the deep map before each upsampling step.

    python examples/unet.py

trains the plain and the gated network for 40 steps on toy images, in about a minute on a CPU.
`GatedUp` replaces `Up`; nothing else changes. docs/porting.md explains it.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gsto_jax import UnsupervisedGSTO
from gsto_jax.losses import cross_entropy

CLASSES = 3
WIDTHS = (8, 16, 32)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class Block(nn.Module):
    """A 3x3 convolution, BN and ReLU."""

    features: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`b h w c` -> `b h w features`."""
        x = nn.Conv(self.features, (3, 3), use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(not train, momentum=0.9, name="bn")(x))


class Up(nn.Module):
    """Plain decoder step: upsamples the deep map and concatenates the skip connection."""

    features: int

    @nn.compact
    def __call__(self, deep: Array, skip: Array, train: bool) -> Array:
        """`b h w c` and `b 2h 2w features` -> `b 2h 2w features`."""
        up = nn.ConvTranspose(self.features, (2, 2), strides=(2, 2), name="up")
        x = up(deep)
        x = jnp.concatenate([x, skip], -1)
        return Block(self.features, name="block")(x, train)


class GatedUp(nn.Module):
    """The same step with GSTO: each pixel of the deep map decides how much of it goes up."""

    features: int

    @nn.compact
    def __call__(self, deep: Array, skip: Array, train: bool) -> Array:
        """`b h w c` and `b 2h 2w features` -> `b 2h 2w features`."""
        up = nn.ConvTranspose(self.features, (2, 2), strides=(2, 2), name="up")
        x = UnsupervisedGSTO(up, name="gsto")(deep, train).features
        x = jnp.concatenate([x, skip], -1)
        return Block(self.features, name="block")(x, train)


class UNet(nn.Module):
    """A U-Net whose decoder steps are `up`."""

    up: type[nn.Module] = Up

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Array:
        """`b h w 3` -> class logits `b h w k`; h and w are multiples of 4."""
        x = Block(WIDTHS[0], name="down0")(image, train)
        skips = [x]
        for n, width in enumerate(WIDTHS[1:], 1):
            x = Block(width, name=f"down{n}")(nn.max_pool(x, (2, 2), (2, 2)), train)
            skips.append(x)
        for n, skip in reversed(list(enumerate(skips[:-1]))):
            x = self.up(WIDTHS[n], name=f"up{n}")(x, skip, train)
        return nn.Conv(CLASSES, (1, 1), name="classifier")(x)


@partial(jax.jit, static_argnums=0)
def train_step(
    model: nn.Module, variables: Any, momentum: Any, image: Array, labels: Array
) -> tuple[Any, Any, Array]:
    """Takes a step of SGD; returns the new variables and momentum, and the loss before the step."""

    def loss_fn(params: Any) -> tuple[Array, Any]:
        state = {**variables, "params": params}
        logits, updated = model.apply(state, image, True, mutable=["batch_stats"])
        return cross_entropy(logits, labels), updated

    (loss, updated), gradient = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
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
    for name, model in {"plain": UNet(), "with GSTO": UNet(up=GatedUp)}.items():
        variables, losses = train(model, steps)
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        print(f"{name:9}  {count} parameters, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    print("The losses show that both networks train, not which one is better.")


if __name__ == "__main__":
    main()
