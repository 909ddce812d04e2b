"""PPM and ASPP, plain and with GSTO, in a user's own encoder-decoder.

    python examples/context_modules.py ppm supervised

trains it for 20 steps on toy images. `EncoderDecoder` is plain flax.linen, and gets the context
module as an argument.
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
    # Rates beyond the size of the map would reach only padding.
    "aspp": partial(ASPP, features=16, rates=(1, 2, 4)),
}


class EncoderDecoder(nn.Module):
    """A network of stride 4 with a context module and one skip connection."""

    context: nn.Module

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> tuple[Array, Array | None]:
        """`b h w 3`, sides divisible by 4 -> logits `b h w k`, and the gates' class logits."""
        shallow = nn.relu(nn.Conv(16, (3, 3), strides=2)(image))
        deep = nn.relu(nn.Conv(32, (3, 3), strides=2)(shallow))
        context = self.context(deep, train)
        up = jax.image.resize(context.features, (*shallow.shape[:3], 16), "bilinear")
        joined = nn.relu(nn.Conv(16, (3, 3))(jnp.concatenate([up, shallow], axis=-1)))
        logits = nn.Conv(CLASSES, (1, 1))(joined)
        return upsample(logits, image), context.logits


def upsample(logits: Array, image: Array) -> Array:
    """Upsamples logits to the size of the image."""
    shape = (*image.shape[:3], logits.shape[-1])
    return jax.image.resize(logits, shape, "bilinear")


def loss_fn(model: nn.Module, params: Any, stats: Any, image: Array, label: Array) -> Any:
    """Returns the loss, which supervises the gates' logits too, and the new BN statistics."""
    variables = {"params": params, "batch_stats": stats}
    (logits, gate_logits), updates = model.apply(variables, image, True, mutable=["batch_stats"])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = cross_entropy(logits, label).mean()
    if gate_logits is not None:
        loss += 0.4 * cross_entropy(upsample(gate_logits, image), label).mean()
    return loss, updates["batch_stats"]


def make_batch(batch_size: int = 4, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Returns noisy images `b h w 3` of patches, and their label maps `b h w`."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, (batch_size, side // 8, side // 8)).repeat(8, 1).repeat(8, 2)
    image = label[..., None] / CLASSES + 0.3 * rng.standard_normal((*label.shape, 3))
    return image.astype(np.float32), label


def train(module: str, gating: str, steps: int = 20) -> list[float]:
    """Trains with a context module and a gating; returns the loss of each step."""
    model = EncoderDecoder(MODULES[module](gating=gating, num_classes=CLASSES))
    image, label = make_batch()
    variables = jax.jit(model.init)(jax.random.key(0), image)
    params, stats = variables["params"], variables["batch_stats"]
    optimizer = optax.adam(1e-2)
    state, losses = optimizer.init(params), []

    @jax.jit
    def step(params: Any, stats: Any, state: Any) -> Any:
        grad_fn = jax.value_and_grad(partial(loss_fn, model), has_aux=True)
        (loss, stats), grads = grad_fn(params, stats, image, label)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), stats, state, loss

    for _ in range(steps):
        params, stats, state, loss = step(params, stats, state)
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", nargs="?", default="ppm", choices=MODULES)
    parser.add_argument("gating", nargs="?", default="supervised", choices=GATING_MODES)
    args = parser.parse_args()
    losses = train(args.module, args.gating)
    print(f"{args.module}, {args.gating}: loss from {losses[0]:.3f} to {losses[-1]:.3f}")
