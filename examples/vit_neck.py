"""GSTO in the neck of a plain ViT: gates its last map once for each output scale.

    python examples/vit_neck.py

trains the plain and the gated network for 40 steps on toy images, in about a minute on a CPU.
`GatedNeck` replaces `Neck`; nothing else changes. docs/porting.md explains it.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax import Array

from gsto_jax import SelfGated, resize
from gsto_jax.losses import cross_entropy

CLASSES = 3
WIDTH = 32
PATCH = 8
STRIDES = (2, 4, 8, 16)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class ViT(nn.Module):
    """A vision transformer with a single block."""

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`b h w 3` -> `b h/8 w/8 c`."""
        x = nn.Conv(WIDTH, (PATCH, PATCH), strides=PATCH, name="patches")(image)
        grid_shape = x.shape
        x = x.reshape(grid_shape[0], -1, WIDTH)
        x = x + self.param("pos_embed", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        y = nn.LayerNorm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(y)
        y = nn.Dense(2 * WIDTH, name="mlp1")(nn.LayerNorm(name="norm2")(x))
        x = x + nn.Dense(WIDTH, name="mlp2")(nn.gelu(y))
        return x.reshape(grid_shape)


class Scale(nn.Module):
    """Resamples the ViT's map to a stride: transposed convolutions or max pooling."""

    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`b h w c` -> `b 8h/stride 8w/stride c`."""
        for n in range((PATCH // self.stride).bit_length() - 1):
            x = nn.ConvTranspose(WIDTH, (2, 2), strides=(2, 2), name=f"up{n}")(nn.gelu(x))
        if self.stride > PATCH:
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.LayerNorm(name="norm")(nn.Conv(WIDTH, (1, 1), name="conv")(x))


class Neck(nn.Module):
    """Plain neck (simple feature pyramid): makes all scales from the same map."""

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """`b h w c` -> one map for each stride."""
        maps = (x,) * len(STRIDES)
        return [Scale(s, name=f"stride{s}")(y) for s, y in zip(STRIDES, maps, strict=True)]


class GatedNeck(nn.Module):
    """The same neck with GSTO: gates the map separately for each scale."""

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """`b h w c` -> one map for each stride."""
        maps = SelfGated(style="paper", num_gates=len(STRIDES), name="gates")(x).maps
        return [Scale(s, name=f"stride{s}")(y) for s, y in zip(STRIDES, maps, strict=True)]


class Segmenter(nn.Module):
    """A ViT, a neck, and a classifier on the sum of its scales."""

    neck: type[nn.Module] = Neck

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`b h w 3` -> class logits `b h/2 w/2 k`; h and w are multiples of 16."""
        maps = self.neck(name="neck")(ViT(name="vit")(image))
        size = maps[0].shape[1:3]
        return nn.Conv(CLASSES, (1, 1), name="classifier")(sum(resize(x, size) for x in maps))


@partial(jax.jit, static_argnums=0)
def train_step(
    model: nn.Module, variables: Any, momentum: Any, image: Array, labels: Array
) -> tuple[Any, Any, Array]:
    """Takes a step of SGD; returns the new variables and momentum, and the loss before the step."""

    def loss_fn(variables: Any) -> Array:
        return cross_entropy(model.apply(variables, image), labels)

    loss, gradient = jax.value_and_grad(loss_fn)(variables)
    updates, momentum = OPTIMIZER.update(gradient, momentum)
    return optax.apply_updates(variables, updates), momentum, loss


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
    momentum = OPTIMIZER.init(variables)
    losses = []
    for step in range(steps):
        variables, momentum, loss = train_step(model, variables, momentum, *random_squares(step))
        losses.append(float(loss))
    return variables, losses


def main(steps: int = 40) -> None:
    """Trains both networks and prints their losses."""
    for name, model in {"plain": Segmenter(), "with GSTO": Segmenter(neck=GatedNeck)}.items():
        variables, losses = train(model, steps)
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        print(f"{name:9}  {count} parameters, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    print("The losses show that both networks train, not which one is better.")


if __name__ == "__main__":
    main()
