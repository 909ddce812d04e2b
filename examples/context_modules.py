"""PPM and ASPP, plain and with GSTO, in an encoder-decoder that is none of ours.

python examples/context_modules.py ppm supervised

`EncoderDecoder` is written in flax.linen alone; the module stands between its two halves. A few
steps on random patches show that it learns.
"""

import argparse
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gsto_jax import ASPP, PPM
from gsto_jax.layers.gates import GATING_MODES

CLASSES = 4
MODULES = {
    "ppm": partial(PPM, features=16),
    # Small maps want small rates: beyond the map's edge a kernel sees nothing.
    "aspp": partial(ASPP, features=16, rates=(1, 2, 4)),
}


class EncoderDecoder(nn.Module):
    """Halves an image twice, and brings it back; the shallow map joins the deep one on the way."""

    context: nn.Module

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> tuple[Array, Array | None]:
        """`b h w 3`, sides divisible by 4 -> logits `b h w k`, and those of the predictor."""
        shallow = nn.relu(nn.Conv(16, (3, 3), strides=2)(image))
        deep = nn.relu(nn.Conv(32, (3, 3), strides=2)(shallow))
        found = self.context(deep, train)
        up = jax.image.resize(found.features, (*shallow.shape[:3], 16), "bilinear")
        joined = nn.relu(nn.Conv(16, (3, 3))(jnp.concatenate([up, shallow], axis=-1)))
        logits = nn.Conv(CLASSES, (1, 1))(joined)
        return upsampled(logits, image), found.logits


def upsampled(logits: Array, image: Array) -> Array:
    """Logits at the size of the image."""
    shape = (*image.shape[:3], logits.shape[-1])
    return jax.image.resize(logits, shape, "bilinear")


def loss_fn(model: nn.Module, params: Any, stats: Any, image: Array, label: Array) -> Any:
    """The loss of the labels, 0.4 times that of the predictor, and the new statistics of BN."""
    variables = {"params": params, "batch_stats": stats}
    (logits, predicted), updates = model.apply(variables, image, True, mutable=["batch_stats"])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = cross_entropy(logits, label).mean()
    if predicted is not None:
        loss += 0.4 * cross_entropy(upsampled(predicted, image), label).mean()
    return loss, updates["batch_stats"]


def images(count: int = 4, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images `b h w 3` of patches, and the class of each pixel, `b h w`."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, (count, side // 8, side // 8)).repeat(8, 1).repeat(8, 2)
    image = label[..., None] / CLASSES + 0.3 * rng.standard_normal((*label.shape, 3))
    return image.astype(np.float32), label


def train(name: str, kind: str, steps: int = 20) -> list[float]:
    """Trains the module of that name and kind of gates; the loss of each step."""
    model = EncoderDecoder(MODULES[name](gating=kind, num_classes=CLASSES))
    image, label = images()
    variables = jax.jit(model.init)(jax.random.key(0), image)
    params, stats = variables["params"], variables["batch_stats"]
    optimizer = optax.adam(1e-2)
    state, losses = optimizer.init(params), []

    @jax.jit
    def step(params: Any, stats: Any, state: Any) -> Any:
        found = jax.value_and_grad(partial(loss_fn, model), has_aux=True)
        (loss, stats), grads = found(params, stats, image, label)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), stats, state, loss

    for _ in range(steps):
        params, stats, state, loss = step(params, stats, state)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", nargs="?", default="ppm", choices=MODULES)
    parser.add_argument("gates", nargs="?", default="supervised", choices=GATING_MODES)
    chosen = parser.parse_args()
    losses = train(chosen.module, chosen.gates)
    print(f"{chosen.module}, {chosen.gates}: loss from {losses[0]:.3f} to {losses[-1]:.3f}")
