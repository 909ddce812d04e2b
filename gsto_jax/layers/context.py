"""Context modules, plain and gated: PPM and ASPP (paper, Table 6 and Figure 4).

Each branch resamples one map to its own scale and back. With gates, a branch first scales the map
by its own gate, as GSTO does before any scale transfer (section 3.1). The modules take any map
`b h w c` and fit any Flax model:

    context = PPM(features=64, gating="supervised", num_classes=19)
    features, class_logits, gates = context(x, train)

The paper leaves details open and prints no parameter counts. Here a branch without a change of
scale (the map itself in PPM, the 1x1 convolution in ASPP) has no gate. Unsupervised gates follow
eq. 4. Supervised gates share one predictor (eq. 5), and each has its own convolution on the class
logits (eq. 6); train these logits by their own loss.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsto_jax.gate import apply_gates
from gsto_jax.layers.blocks import Composite, ConvBN
from gsto_jax.layers.conv import Conv, hrnet_std
from gsto_jax.layers.gates import GateLogits, SelfGated, check_gating, get_style
from gsto_jax.ops.checks import at_least
from gsto_jax.ops.resize import adaptive_average_pool, resize


class ContextOutput(NamedTuple):
    """Output of a context module.

    Attributes:
      features: the fused map.
      logits: class logits of the predictor, if there is one.
      gates: gate of each branch by name, in (0, 1) or the range of its style; empty without gates.
    """

    features: Float[Array, "b h w c"]
    logits: Float[Array, "b h w k"] | None
    gates: dict[str, Float[Array, "b h w 1"]]


class BranchGates(Composite):
    """Scales one map for each of several branches, by a gate per branch (eq. 3 to 6).

    Attributes:
      branches: names of the branches.
      gating: "none", "supervised", "unsupervised" or "head_only"; see `PPM`.
      num_classes: classes of the predictor.
      style: one of `GATE_STYLES`; see `GateLogits`.
      implementation: implementation of unsupervised gates (see `gsto_jax.gate.gated_maps`).
      conv: class or factory of the convolutions. `gsto_jax.Conv` initializes the gates' kernels
        with a standard deviation of 0.001.
    """

    rules: ClassVar = {"num_classes": at_least(0)}

    branches: Sequence[str]
    gating: str = "none"
    num_classes: int = 0
    style: str = "paper"
    implementation: str | None = None

    @nn.compact
    def __call__(
        self, x: Real[Array, "b h w c"], train: bool = False
    ) -> tuple[
        Sequence[Real[Array, "b h w c"]],
        Float[Array, "b h w k"] | None,
        dict[str, Float[Array, "b h w 1"]],
    ]:
        """Returns the map of each branch, the predictor's logits, and the gate of each branch.

        Raises:
          ValueError: an unknown gating or style, or a predictor without classes.
        """
        check_gating(self.gating, self.num_classes)
        num_branches, logits = len(self.branches), None
        if self.gating in ("supervised", "head_only"):
            logits = self.conv(self.num_classes, 1, use_bias=True, name="predictor")(x)
        if self.gating in ("none", "head_only"):
            return [x] * num_branches, logits, {}
        maximum = get_style(self.style).maximum
        conv = self.conv
        if getattr(conv, "func", conv) is Conv:
            # Gates without BN must start near one half: He's deviation would saturate them.
            conv = partial(conv, kernel_std=hrnet_std)
        factories = {"conv": conv, "norm": self.norm}
        if logits is None:
            gate = SelfGated(
                self.style, num_branches, self.implementation, **factories, name="gate"
            )
            maps, gates, _, _ = gate(x, train)
        else:
            gate_logits = GateLogits(self.style, num_branches, **factories, name="gate")
            maps, gates = apply_gates(x, gate_logits(logits, train), maximum)
        return maps, logits, {name: gates[..., n, None] for n, name in enumerate(self.branches)}


class _ContextModule(Composite, kw_only=True):
    """Base of `PPM` and `ASPP`, with their common attributes."""

    rules: ClassVar = {"num_classes": at_least(0)}

    gating: str = "none"
    num_classes: int = 0
    style: str = "paper"
    align_corners: bool = False
    implementation: str | None = None

    def _branch_gates(self, branches: Sequence[str]) -> BranchGates:
        return BranchGates(
            branches,
            gating=self.gating,
            num_classes=self.num_classes,
            style=self.style,
            implementation=self.implementation,
            **self.factories,
            name="gates",
        )


class PPM(_ContextModule):
    """Pyramid pooling module: the map and its averages over grids of a few bins.

    For each grid the map is gated, pooled adaptively, passed through a 1x1 convolution, BN and
    ReLU, and upsampled. A 3x3 convolution, BN and ReLU fuses these maps with the input; there is no
    dropout. With one bin and one image, BatchNorm would see a single value per channel and raises
    in training: train on at least two images.

    Attributes:
      features: channels of each pooled branch and of the output, usually a quarter of the input's.
      bins: bins along each side of each grid.
      gating: "none" (the plain module), "supervised", "unsupervised", or "head_only" (a predictor
        without gates, the paper's "w/ sup" control).
      num_classes: classes of the predictor of "supervised" and "head_only".
      style: "paper" (sigmoid without bias), or another one of `GATE_STYLES`; see `GateLogits`.
      align_corners: alignment of the upsampling.
      implementation: implementation of unsupervised gates (see `gsto_jax.gate.gated_maps`).

    Example:
      >>> ppm = PPM(features=512, gating="supervised", num_classes=19)
      >>> x = jnp.ones((2, 12, 12, 2048))
      >>> output, variables = ppm.init_with_output(jax.random.key(0), x)
      >>> output.gates["bin6"].shape  # gate of the branch pooled to 6x6
      (2, 12, 12, 1)
    """

    features: int = 512
    bins: Sequence[int] = (1, 2, 3, 6)

    @nn.compact
    def __call__(self, x: Real[Array, "b h w c"], train: bool = False) -> ContextOutput:
        """`b h w c` -> `b h w features`, the predictor's logits, and gates "bin1", "bin2", ....

        Raises:
          ValueError: an unknown gating or style, or a predictor without classes.
        """
        names = [f"bin{bins}" for bins in self.bins]
        maps, logits, gates = self._branch_gates(names)(x, train)
        branches = [x]
        for name, bins, gated in zip(names, self.bins, maps, strict=True):
            y = adaptive_average_pool(gated, bins)
            y = ConvBN(self.features, 1, **self.factories, name=name)(y, train)
            branches.append(resize(y, x.shape[1:3], "bilinear", self.align_corners))
        fuse = ConvBN(self.features, 3, **self.factories, name="fuse")
        return ContextOutput(fuse(jnp.concatenate(branches, -1), train), logits, gates)


class ASPP(_ContextModule):
    """Atrous spatial pyramid pooling: convolutions at several dilation rates, and image pooling.

    The branches are a 1x1 convolution of the map; for each rate a 3x3 convolution of the gated map
    with that dilation; and a 1x1 convolution of the gated map's mean over the image, upsampled. All
    have BN and ReLU; a 1x1 convolution, BN and ReLU fuses them. There is no dropout and no 3x3
    convolution before the classifier. Train on at least two images (see `PPM`).

    Attributes:
      features: channels of each branch and of the output, usually an eighth of the input's.
      rates: dilations of the 3x3 convolutions; 12, 24, 36 suit maps of 1/8 of the image's size.
      gating: see `PPM`.
      num_classes: classes of the predictor of "supervised" and "head_only".
      style: "paper" (sigmoid without bias), or another one of `GATE_STYLES`; see `GateLogits`.
      align_corners: alignment of the upsampling.
      implementation: implementation of unsupervised gates (see `gsto_jax.gate.gated_maps`).
      conv: class or factory of the convolutions; it must take a `dilation`.

    Example:
      >>> aspp = ASPP(features=256, gating="unsupervised")
      >>> x = jnp.ones((2, 12, 12, 2048))
      >>> output, variables = aspp.init_with_output(jax.random.key(0), x)
      >>> output.gates["rate12"].shape, output.gates["image"].shape
      ((2, 12, 12, 1), (2, 12, 12, 1))
    """

    features: int = 256
    rates: Sequence[int] = (12, 24, 36)

    @nn.compact
    def __call__(self, x: Real[Array, "b h w c"], train: bool = False) -> ContextOutput:
        """`b h w c` -> `b h w features`, the predictor's logits, gates "rate12", ..., "image".

        Raises:
          ValueError: an unknown gating or style, or a predictor without classes.
        """
        names = [*(f"rate{rate}" for rate in self.rates), "image"]
        (*maps, pooled), logits, gates = self._branch_gates(names)(x, train)
        branches = [ConvBN(self.features, 1, **self.factories, name="point")(x, train)]
        for name, rate, gated in zip(names, self.rates, maps, strict=False):
            atrous = ConvBN(self.features, 3, dilation=rate, **self.factories, name=name)
            branches.append(atrous(gated, train))
        pooled = adaptive_average_pool(pooled, 1)
        pooled = ConvBN(self.features, 1, **self.factories, name="image")(pooled, train)
        branches.append(resize(pooled, x.shape[1:3], "bilinear", self.align_corners))
        fuse = ConvBN(self.features, 1, **self.factories, name="fuse")
        return ContextOutput(fuse(jnp.concatenate(branches, -1), train), logits, gates)


CONTEXT_MODULES = {"ppm": PPM, "aspp": ASPP}
"""Context modules by config name."""
