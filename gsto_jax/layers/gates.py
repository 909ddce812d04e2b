"""Gate layers: gate logits computed from a feature map, and maps scaled by their own gates."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Float, Real

from gsto_jax.errors import UserError
from gsto_jax.gate import Gated, apply_gates, gated_maps
from gsto_jax.layers.blocks import Composite, ConvBN
from gsto_jax.layers.conv import Conv, ModuleDef
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.checks import one_of
from gsto_jax.ops.dispatch import has_few_images
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap


class GateStyle(NamedTuple):
    """How a gate is computed from the logits of a convolution.

    `gate = maximum * sigmoid(slope * act(norm(logits)))`.

    Attributes:
      normalized: whether BN follows the convolution.
      relu: whether a ReLU precedes the sigmoid.
      maximum: upper bound of the gate.
      slope: factor of the values before the sigmoid.
      initial_scale: initial scale of BN.
      initial_bias: initial bias of BN.
    """

    normalized: bool = True
    relu: bool = True
    maximum: float = 1.0
    slope: float = 1.0
    initial_scale: float = 1.0
    initial_bias: float = 0.0


GATE_STYLES: Mapping[str, GateStyle] = {
    "released": GateStyle(),
    "paper": GateStyle(normalized=False, relu=False),
    "open": GateStyle(initial_bias=3.0),
    "doubled": GateStyle(relu=False, maximum=2.0),
    # 1 + tanh(y) = 2 sigmoid(2 y). A scale of 0 makes it 1 at the start.
    "residual": GateStyle(relu=False, maximum=2.0, slope=2.0, initial_scale=0.0),
}
"""By name: as in the released code; eq. 4; as released, but near 0.95 at the start; of mean 1 at
the start; and 1 at the start."""
GATING_MODES = ("none", "supervised", "unsupervised", "head_only")
"""How GTM and context modules gate: not at all, by a supervised predictor's logits, by the features
themselves, or not at all but with the supervised predictor (the paper's "w/ sup" control)."""


class GateLogits(Composite):
    """Logits of spatial gates: one scalar per pixel from that pixel's channels (section 3.1).

    The style "paper" (eq. 4) is a 1x1 convolution: `gate = sigmoid(rho . F)`. The style "released"
    adds BN and ReLU, so the gate lies in [0.5, 1). "open" differs by its start only: BN's bias is
    3, the gate about 0.95. "doubled" is `2 sigmoid(BN)`, "residual" `1 + tanh(BN)`, which is 1 at
    the start, since BN's scale is 0; pass their `GATE_STYLES[style].maximum` to `apply_gates`.
    Several gates of one map are one convolution with several output channels, which equals separate
    gates exactly.

    Attributes:
      style: one of `GATE_STYLES`.
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
          UserError: `norm` is flax's BatchNorm, or lacks the initial values of the style.
        """
        style = get_style(self.style)
        logits = self.conv(self.num_gates, 1, parallel=self.num_gates, name="conv")(x)
        if not style.normalized:
            return logits
        norm = gate_norm(self.norm, self.style, name="bn")
        return _activate(norm(logits, train), style)


class SelfGated(Composite):
    """A map scaled by gates computed from itself, fused into one operation where possible.

    Attributes:
      style: one of `GATE_STYLES`; see `GateLogits`.
      num_gates: number of independent gates.
      implementation: see `gsto_jax.gate.gated_maps`. None chooses "xla" in evaluation with fewer
        than 8 images per device.

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
          UserError: the named implementation cannot run here; or `norm` is flax's BatchNorm, or
            lacks the initial values of the style.
        """
        style = get_style(self.style)
        conv = self.conv(self.num_gates, 1, parallel=self.num_gates, name="conv")
        norm = gate_norm(self.norm, self.style, name="bn") if style.normalized else None
        logits = conv(x)
        x = as_floating(x, logits.dtype)
        if reason := _unfusable_reason(conv, norm, train):
            if self.implementation in ("pallas_tpu", "pallas_gpu"):
                raise UserError(f"implementation {self.implementation!r} cannot run here: {reason}")
            if norm is not None:
                logits = _activate(norm(logits, train), style)
            return Gated(*apply_gates(x, logits, style.maximum), None, None)
        implementation = self.implementation
        if implementation is None and not train and has_few_images(x.shape[0]):
            implementation = "xla"
        kernel = conv.variables["params"]["kernel"][0, 0]
        parameters = None if norm is None else norm.norm_parameters(logits, train)
        if parameters is not None and style.slope != 1:
            scale, bias = style.slope * parameters.scale, style.slope * parameters.bias
            parameters = replace(parameters, scale=scale, bias=bias)
        gated = gated_maps(
            x,
            kernel,
            parameters,
            relu=style.relu,
            maximum=style.maximum,
            implementation=implementation,
        )
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
      style: "released", "open", "doubled" or "residual", which sets the ReLU and the initial BN of
        the last convolution; see `GateLogits`.
    """

    rules: ClassVar = {"style": one_of([x for x, style in GATE_STYLES.items() if style.normalized])}

    halvings: int
    kernel_size: int
    style: str = "released"

    @nn.compact
    def __call__(
        self, x: Real[FeatureMap, "b h w c"], train: bool = False
    ) -> Float[FeatureMap, "b _ _ 1"]:
        """`b h w c` -> logits `b h/2^halvings w/2^halvings 1`, sizes rounded up.

        Raises:
          UserError: `norm` is flax's BatchNorm, or lacks the initial values of the style.
        """
        style, factories = get_style(self.style), self.factories
        for k in range(self.halvings + 1):
            size, stride = (3, 2) if k else (self.kernel_size, 1)
            is_last = k == self.halvings
            if is_last:
                factories = factories | {"norm": partial(gate_norm, self.norm, self.style)}
            relu = style.relu or not is_last
            x = ConvBN(1, size, stride=stride, relu=relu, **factories, name=f"cbr{k}")(x, train)
        return x if style.slope == 1 else jax.tree.map(lambda y: style.slope * y, x)


def gate_norm(norm: ModuleDef, style: str, name: str) -> nn.Module:
    """Returns the normalization of a gate, with the initial values of its style.

    Only values that differ are passed, since injected normalizations may lack the arguments.

    Raises:
      UserError: `norm` lacks them, or is flax's BatchNorm, which reads `train` as its opposite.
    """
    wanted, default = get_style(style), GateStyle()
    names = ("initial_scale", "initial_bias")
    initial = {x: getattr(wanted, x) for x in names if getattr(wanted, x) != getattr(default, x)}
    try:
        layer = norm(name=name, **initial)
    except TypeError as error:
        if not initial:
            raise
        raise UserError(
            f"norm must take initial_scale and initial_bias with style={style!r} ({error}); use "
            "gsto_jax.BatchNorm"
        ) from None
    if isinstance(layer, nn.BatchNorm):
        raise UserError(
            "norm must be called as norm(x, train); got flax.linen.BatchNorm, whose second "
            "argument is use_running_average. Use gsto_jax.BatchNorm"
        )
    return layer


def _activate(y: FeatureMap, style: GateStyle) -> FeatureMap:
    """Returns the values before the sigmoid from the normalized logits."""
    if style.relu:
        y = jax.tree.map(jax.nn.relu, y)
    return y if style.slope == 1 else jax.tree.map(lambda v: style.slope * v, y)


def get_style(style: str) -> GateStyle:
    """Returns a gate style by name. Raises ValueError for an unknown one."""
    one_of(tuple(GATE_STYLES))("style", style)
    return GATE_STYLES[style]


def check_gating(gating: str, num_classes: int) -> None:
    """Raises ValueError for an unknown gating mode, or a predictor without classes."""
    one_of(GATING_MODES)("gating", gating)
    if gating in ("supervised", "head_only") and num_classes < 1:
        raise ValueError(
            f"num_classes must be at least 1 with gating={gating!r}; got {num_classes}"
        )
