"""Context modules, plain and gated: PPM and ASPP (paper, Table 6 and Figure 4).

Each branch takes one map to a scale of its own, and back. Gated, it scales the map by a gate of its
own first, as GSTO does before any transfer (section 3.1). The modules take any `b h w c`, and stand
in any Flax model:

    context = PPM(features=64, gsto="supervised", num_classes=19)
    features, class_logits, gates = context(x, train)

The paper leaves the form open, and prints no counts. Here a branch that changes no scale (the map
itself in PPM, the 1x1 convolution in ASPP) has no gate. Unsupervised gates are those of eq. 4;
supervised ones share one predictor (eq. 5), and each has a convolution of its own on the logits
(eq. 6). Give these logits a loss of their own.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from gsto_jax.gate import apply_gates
from gsto_jax.layers.blocks import Composite, ConvBN
from gsto_jax.layers.conv import Conv, hrnet_std
from gsto_jax.layers.gates import SelfGated, SpatialGate
from gsto_jax.ops.checks import at_least
from gsto_jax.ops.resize import adaptive_average_pool, resize

CONTEXT_KINDS = ("none", "supervised", "unsupervised", "head_only")
"""How a context module is gated; see `PPM`."""


class ContextOutput(NamedTuple):
    """What a context module makes.

    Attributes:
      features: `b h w features`.
      logits: `b h w num_classes` of the predictor, if there is one.
      gates: `b h w 1` in (0, 1), by the branch that they scale the map for; empty without gates.
    """

    features: Array
    logits: Array | None
    gates: dict[str, Array]


class BranchGates(Composite):
    """Scales one map for each of several branches, by gates of their own (eq. 3 to 6).

    Attributes:
      branches: their names.
      kind: one of `CONTEXT_KINDS`.
      num_classes: of the predictor.
      form: of the gates, "paper" or "released".
      implementation: of gates that the map itself makes (`gsto_jax.gate.gated_maps`).
      conv: the convolution to use. This package's own starts gates at a deviation of 0.001.
    """

    rules: ClassVar = {"num_classes": at_least(0)}

    branches: Sequence[str]
    kind: str = "none"
    num_classes: int = 0
    form: str = "paper"
    implementation: str | None = None

    @nn.compact
    def __call__(
        self, x: Array, train: bool = False
    ) -> tuple[Sequence[Array], Array | None, dict[str, Array]]:
        """`b h w c` -> a map like it for each branch; the predictor's logits; gates by branch.

        Raises:
          ValueError: an unknown kind or form, or a predictor without classes.
        """
        if self.kind not in CONTEXT_KINDS:
            raise ValueError(f"unknown gates {self.kind!r}: use one of {', '.join(CONTEXT_KINDS)}")
        count, logits = len(self.branches), None
        if self.kind in ("supervised", "head_only"):
            if self.num_classes < 1:
                raise ValueError(
                    f"{self.kind} gates need num_classes, the channels of their predictor"
                )
            logits = self.conv(self.num_classes, 1, use_bias=True, name="predictor")(x)
        if self.kind in ("none", "head_only"):
            return [x] * count, logits, {}
        conv = self.conv
        if getattr(conv, "func", conv) is Conv:
            # Gates that nothing normalizes start near one half: He's deviation would shut them.
            conv = partial(conv, kernel_std=hrnet_std)
        parts = {"conv": conv, "norm": self.norm, "name": "gate"}
        if logits is None:
            found = SelfGated(self.form, count, self.implementation, **parts)(x, train)
            maps, gates = found.maps, found.gates
        else:
            maps, gates = apply_gates(x, SpatialGate(self.form, count, **parts)(logits, train))
        return maps, logits, {name: gates[..., n, None] for n, name in enumerate(self.branches)}


class PPM(Composite):
    """Pyramid pooling module: the map beside what pooling it into few bins leaves of it.

    For each number of bins the map is gated, pooled adaptively, sent through a 1x1 convolution, BN
    and ReLU, and upsampled; a 3x3 convolution, BN and ReLU joins all of that with the map itself.
    No dropout. One bin of a batch of one is one value per channel, which BatchNorm refuses in
    training: train on at least two images.

    Attributes:
      features: channels of each pooled branch and of the result. Usual: a quarter of the map's.
      bins: along each side.
      gsto: "none" (the plain module), "supervised", "unsupervised", or "head_only" (a predictor
        that gates nothing, the paper's "w/ sup" control).
      num_classes: of the predictor that "supervised" and "head_only" have.
      form: of the gates: "paper" (a sigmoid without bias) or "released" (BN and ReLU before it).
      align_corners: of the upsampling.
      implementation: of unsupervised gates (`gsto_jax.gate.gated_maps`).

    Example:
      >>> ppm = PPM(features=512, gsto="supervised", num_classes=19)
      >>> y, class_logits, gates = ppm.apply(variables, x)
      >>> gates["bin6"]  # what the pooling to 6x6 sees of the map, b h w 1
    """

    rules: ClassVar = {"num_classes": at_least(0)}

    features: int = 512
    bins: Sequence[int] = (1, 2, 3, 6)
    gsto: str = "none"
    num_classes: int = 0
    form: str = "paper"
    align_corners: bool = False
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> ContextOutput:
        """`b h w c` -> `b h w features`, logits of the predictor, gates by "bin1" and so on.

        Raises:
          ValueError: an unknown kind or form of gates, or a predictor without classes.
        """
        parts = self.parts
        names = [f"bin{bins}" for bins in self.bins]
        maps, logits, found = _gates_of(self, names)(x, train)
        branches = [x]
        for name, bins, gated in zip(names, self.bins, maps, strict=True):
            y = adaptive_average_pool(gated, bins)
            y = ConvBN(self.features, 1, **parts, name=name)(y, train)
            branches.append(resize(y, x.shape[1:3], "bilinear", self.align_corners))
        fuse = ConvBN(self.features, 3, **parts, name="fuse")
        return ContextOutput(fuse(jnp.concatenate(branches, -1), train), logits, found)


class ASPP(Composite):
    """Atrous spatial pyramid pooling: convolutions of one map at several rates, and its mean.

    A 1x1 convolution of the map; for each rate the gated map under a 3x3 convolution of that
    dilation; and the gated map's mean over the image under a 1x1 convolution, upsampled: all with
    BN and ReLU, joined by a 1x1 convolution, BN and ReLU. No dropout, no 3x3 convolution before the
    classifier. The mean of a batch of one is one value per channel: see `PPM`.

    Attributes:
      features: channels of each branch and of the result. Usual: an eighth of the map's.
      rates: dilations of the 3x3 convolutions; 12, 24, 36 suit maps of an image's eighth.
      gsto: see `PPM`.
      num_classes: of the predictor that "supervised" and "head_only" have.
      form: of the gates: "paper" (a sigmoid without bias) or "released" (BN and ReLU before it).
      align_corners: of the upsampling.
      implementation: of unsupervised gates (`gsto_jax.gate.gated_maps`).
      conv: the convolution to use; it takes a `dilation`.

    Example:
      >>> aspp = ASPP(features=256, gsto="unsupervised")
      >>> y, _, gates = aspp.apply(variables, x)
      >>> gates["rate12"], gates["image"]
    """

    rules: ClassVar = {"num_classes": at_least(0)}

    features: int = 256
    rates: Sequence[int] = (12, 24, 36)
    gsto: str = "none"
    num_classes: int = 0
    form: str = "paper"
    align_corners: bool = False
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> ContextOutput:
        """`b h w c` -> `b h w features`, logits of the predictor, gates by "rate12" ... "image".

        Raises:
          ValueError: an unknown kind or form of gates, or a predictor without classes.
        """
        parts = self.parts
        names = [*(f"rate{rate}" for rate in self.rates), "image"]
        (*maps, seen), logits, found = _gates_of(self, names)(x, train)
        branches = [ConvBN(self.features, 1, **parts, name="point")(x, train)]
        for name, rate, gated in zip(names, self.rates, maps, strict=False):
            atrous = ConvBN(self.features, 3, dilation=rate, **parts, name=name)
            branches.append(atrous(gated, train))
        mean = adaptive_average_pool(seen, 1)
        mean = ConvBN(self.features, 1, **parts, name="image")(mean, train)
        branches.append(resize(mean, x.shape[1:3], "bilinear", self.align_corners))
        fuse = ConvBN(self.features, 1, **parts, name="fuse")
        return ContextOutput(fuse(jnp.concatenate(branches, -1), train), logits, found)


def _gates_of(module: PPM | ASPP, branches: Sequence[str]) -> BranchGates:
    return BranchGates(
        branches,
        kind=module.gsto,
        num_classes=module.num_classes,
        form=module.form,
        implementation=module.implementation,
        **module.parts,
        name="gates",
    )


CONTEXTS = {"ppm": PPM, "aspp": ASPP}
"""Context modules by config name."""
