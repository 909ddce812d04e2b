"""GSTO in a Flax NNX network: a linen gate behind `nnx.bridge.ToNNX`.

    python examples/nnx_bridge.py

trains the plain and the gated network for 40 steps on toy images, in about a minute on a CPU.
`GatedDecoder` replaces `Decoder`; nothing else changes. docs/porting.md explains it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from gsto_jax import SelfGated, resize
from gsto_jax.losses import cross_entropy

CLASSES = 3
WIDTHS = (16, 32)


class Down(nnx.Module):
    """A 3x3 convolution at stride 2, BN and ReLU."""

    def __init__(self, channels: int, features: int, rngs: nnx.Rngs) -> None:
        """Initializes the parameters."""
        self.conv = nnx.Conv(channels, features, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

    def __call__(self, x: Array, train: bool) -> Array:
        """`b h w channels` -> `b h/2 w/2 features`."""
        return nnx.relu(self.bn(self.conv(x), use_running_average=not train))


class Decoder(nnx.Module):
    """Plain decoder: projects the deep map, upsamples it and adds it to the shallow one."""

    def __init__(self, deep: int, shallow: int, rngs: nnx.Rngs) -> None:
        """Initializes the parameters for maps of `deep` and `shallow` channels."""
        self.project = nnx.Conv(deep, shallow, (1, 1), rngs=rngs)

    def __call__(self, deep: Array, shallow: Array, train: bool) -> Array:
        """Maps `b h w c` of two resolutions -> one like the shallow map."""
        return shallow + resize(self.project(deep), shallow.shape[1:3])


class GatedDecoder(nnx.Module):
    """The same decoder with GSTO: gates the deep map before the projection."""

    def __init__(self, deep: int, shallow: int, rngs: nnx.Rngs) -> None:
        """Initializes the parameters for maps of `deep` and `shallow` channels."""
        self.project = nnx.Conv(deep, shallow, (1, 1), rngs=rngs)
        self.gate = nnx.bridge.ToNNX(SelfGated(), rngs).lazy_init(jnp.ones((1, 1, 1, deep)))

    def __call__(self, deep: Array, shallow: Array, train: bool) -> Array:
        """Maps `b h w c` of two resolutions -> one like the shallow map."""
        (deep,) = self.gate(deep, train, mutable=["batch_stats"]).maps
        return shallow + resize(self.project(deep), shallow.shape[1:3])


class Network(nnx.Module):
    """Two downsampling steps, a decoder and a classifier."""

    def __init__(self, decoder: type[nnx.Module], rngs: nnx.Rngs) -> None:
        """Initializes the parameters."""
        shallow, deep = WIDTHS
        self.down1 = Down(3, shallow, rngs)
        self.down2 = Down(shallow, deep, rngs)
        self.decoder = decoder(deep, shallow, rngs)
        self.classifier = nnx.Conv(shallow, CLASSES, (3, 3), rngs=rngs)

    def __call__(self, image: Array, train: bool = False) -> Array:
        """`b h w 3` -> class logits `b h/2 w/2 k`."""
        shallow = self.down1(image, train)
        deep = self.down2(shallow, train)
        return self.classifier(self.decoder(deep, shallow, train))


@nnx.jit
def train_step(model: Network, optimizer: nnx.Optimizer, image: Array, labels: Array) -> Array:
    """Takes a step of SGD in place; returns the loss before the step."""

    def loss_fn(model: Network) -> Array:
        return cross_entropy(model(image, True), labels)

    loss, gradient = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, gradient)
    return loss


def random_squares(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noisy images `b h w 3` of colored squares, and their label maps `b h w`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=(8, 4, 4)).repeat(8, 1).repeat(8, 2)
    image = np.eye(3)[labels] + rng.normal(size=(*labels.shape, 3))
    return image.astype(np.float32), labels


def train(decoder: type[nnx.Module], steps: int) -> tuple[Network, list[float]]:
    """Trains from scratch; returns the network and the loss of each step."""

    @nnx.jit
    def create() -> Network:
        key = jax.random.key(0, impl="rbg")  # compiles faster than the default
        return Network(decoder, nnx.Rngs(key))

    model = create()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    losses = [float(train_step(model, optimizer, *random_squares(n))) for n in range(steps)]
    return model, losses


def main(steps: int = 40) -> None:
    """Trains both networks and prints their losses."""
    for name, decoder in {"plain": Decoder, "with GSTO": GatedDecoder}.items():
        model, losses = train(decoder, steps)
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        print(f"{name:9}  {count} parameters, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    print("The losses show that both networks train, not which one is better.")


if __name__ == "__main__":
    main()
