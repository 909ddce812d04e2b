"""Gate layers: gate logits computed from a feature map, and maps scaled by their own gates."""

import flax.linen as nn
import jax
from jaxtyping import Float, Real

from gsto_jax.errors import UserError
from gsto_jax.gate import Gated, apply_gates, gated_maps
from gsto_jax.layers.blocks import Composite, ConvBN
from gsto_jax.layers.conv import Conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.checks import one_of
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap

GATE_STYLES = ("released", "paper")
GATING_MODES = ("none", "supervised", "unsupervised", "head_only")
"""How GTM and context modules gate: not at all, by a supervised predictor's logits, by the features
themselves, or not at all but with the supervised predictor (the paper's "w/ sup" control)."""


class GateLogits(Composite):
    """Logits of spatial gates: one scalar per pixel from that pixel's channels (section 3.1).

    The style "paper" (eq. 4) is a 1x1 convolution: `gate = sigmoid(rho . F)`. The style "released"
    adds BN and ReLU, so the gate lies in [0.5, 1). Several gates of one map are one convolution
    with several output channels, which equals separate gates exactly.

    Attributes:
      style: "released" or "paper".
      num_gates: number of independent gates.

    Example:
      >>> features = jnp.ones((1, 8, 8, 32))
      >>> logits, variables = GateLogits("paper").init_with_output(jax.random.key(0), features)
      >>> (gated,), gate = apply_gates(features, logits)  # gate b h w 1
    """

    style: str = "released"
    num_gates: int = 1

    @nn.compact
    def __call__(
        self, x: Real[FeatureMap, "b h w c"], train: bool = False
    ) -> Float[FeatureMap, "b h w num_gates"]:
        """`b h w c` -> logits `b h w num_gates`.

        Raises:
          ValueError: an unknown style.
          UserError: `norm` is flax's BatchNorm.
        """
        check_style(self.style)
        logits = self.conv(self.num_gates, 1, parallel=self.num_gates, name="conv")(x)
        if self.style == "paper":
            return logits
        norm = self.norm(name="bn")
        check_norm(norm)
        return jax.tree.map(jax.nn.relu, norm(logits, train))


class SelfGated(Composite):
    """A map scaled by gates computed from itself, fused into one operation where possible.

    Attributes:
      style: "released" or "paper"; see `GateLogits`.
      num_gates: number of independent gates.
      implementation: see `gsto_jax.gate.gated_maps`.

    Example:
      >>> features = jnp.ones((1, 8, 8, 32))
      >>> layer = SelfGated(num_gates=2)
      >>> gated, variables = layer.init_with_output(jax.random.key(0), features)
      >>> first, second = gated.maps  # each b h w c
    """

    style: str = "released"
    num_gates: int = 1
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Real[FeatureMap, "b h w c"], train: bool = False) -> Gated:
        """`b h w c` -> `num_gates` scaled maps of that shape, and the gates.

        Raises:
          ValueError: an unknown style.
          UserError: the named implementation cannot run here, or `norm` is flax's BatchNorm.
        """
        check_style(self.style)
        released = self.style == "released"
        conv = self.conv(self.num_gates, 1, parallel=self.num_gates, name="conv")
        norm = self.norm(name="bn") if released else None
        check_norm(norm)
        logits = conv(x)
        x = as_floating(x, logits.dtype)
        if reason := _unfusable_reason(conv, norm, train):
            if self.implementation in ("pallas_tpu", "pallas_gpu"):
                raise UserError(f"implementation {self.implementation!r} cannot run here: {reason}")
            if norm is not None:
                logits = jax.tree.map(jax.nn.relu, norm(logits, train))
            return Gated(*apply_gates(x, logits), None, None)
        kernel = conv.variables["params"]["kernel"][0, 0]
        parameters = None if norm is None else norm.norm_parameters(logits, train)
        gated = gated_maps(x, kernel, parameters, relu=released, implementation=self.implementation)
        if train and norm is not None:
            norm.update(logits, gated.mean, gated.var)
        return gated


def _unfusable_reason(conv: nn.Module, norm: nn.Module | None, train: bool) -> str:
    """Returns why `gated_maps` cannot replace the layers; empty if it can."""
    if not isinstance(conv, Conv) or not isinstance(norm, BatchNorm | None):
        return "its convolution or normalization is not gsto_jax.Conv or gsto_jax.BatchNorm"
    if train and norm is not None and norm.groups > 1:
        return "BN normalizes groups of the batch separately (model.bn_groups)"
    return ""


class StridedGateLogits(Composite):
    """Logits of the released GTM gate, at the lowest branch's resolution (section 3.2.2).

    A stride-1 convolution to one channel, then `halvings` 3x3 stride-2 convolutions, each followed
    by BN and ReLU.

    Attributes:
      halvings: number of stride-2 convolutions.
      kernel_size: kernel size of the first convolution: 3 on class logits, 1 on features.
    """

    halvings: int
    kernel_size: int

    @nn.compact
    def __call__(
        self, x: Real[FeatureMap, "b h w c"], train: bool = False
    ) -> Float[FeatureMap, "b _ _ 1"]:
        """`b h w c` -> logits `b h/2^halvings w/2^halvings 1`, sizes rounded up."""
        x = ConvBN(1, self.kernel_size, **self.factories, name="cbr0")(x, train)
        for k in range(1, self.halvings + 1):
            x = ConvBN(1, 3, stride=2, **self.factories, name=f"cbr{k}")(x, train)
        return x


def check_style(style: str) -> None:
    """Raises ValueError for an unknown gate style."""
    one_of(GATE_STYLES)("style", style)


def check_gating(gating: str, num_classes: int) -> None:
    """Raises ValueError for an unknown gating mode, or a predictor without classes."""
    one_of(GATING_MODES)("gating", gating)
    if gating in ("supervised", "head_only") and num_classes < 1:
        raise ValueError(
            f"num_classes must be at least 1 with gating={gating!r}; got {num_classes}"
        )


def check_norm(norm: nn.Module | None) -> None:
    """Raises UserError for flax's BatchNorm, which would read `train` as its opposite."""
    if isinstance(norm, nn.BatchNorm):
        raise UserError(
            "norm must be called as norm(x, train); got flax.linen.BatchNorm, whose second "
            "argument is use_running_average. Use gsto_jax.BatchNorm"
        )
