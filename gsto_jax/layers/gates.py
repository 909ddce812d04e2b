"""The networks that compute a gate: logits before the sigmoid, which `apply_gates` takes."""

import flax.linen as nn
import jax

from gsto_jax.errors import UserError
from gsto_jax.gate import Gated, apply_gates, gated_maps
from gsto_jax.layers.blocks import Composite, ConvBN
from gsto_jax.layers.conv import Conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap

GATE_FORMS = ("released", "paper")


class SpatialGate(Composite):
    """Logits of spatial gates: one scalar a pixel from that pixel's channels (section 3.1).

    Paper form (eq. 4): a 1x1 convolution, so `g = sigmoid(rho . F)`. Released form: the same
    convolution, then BN and ReLU, so that `g` lies in [0.5, 1). Several gates of one map are one
    convolution to as many channels, which equals as many separate gates exactly.

    Attributes:
      form: "released" or "paper".
      gates: how many independent gates.

    Example:
      >>> logits = SpatialGate(form="paper")(features)  # b h w 1
      >>> (gated,), gate = apply_gates(features, logits)
    """

    form: str = "released"
    gates: int = 1

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> FeatureMap:
        """`b h w c` -> logits `b h w gates`.

        Raises:
          ValueError: an unknown form.
          UserError: flax's BatchNorm as `norm`.
        """
        check_form(self.form)
        conv = self.conv(self.gates, 1, parallel=self.gates, name="conv")
        logits = conv(x)
        if self.form == "paper":
            return logits
        norm = self.norm(name="bn")
        check_norm(norm)
        return jax.tree.map(jax.nn.relu, norm(logits, train))


class SelfGated(Composite):
    """Maps scaled by the gates of `SpatialGate`, in one operation where a kernel can.

    Attributes:
      form: "released" or "paper".
      gates: how many independent gates.
      implementation: of `gsto_jax.gate.gated_maps`.

    Example:
      >>> first, second = SelfGated(gates=2).apply(variables, features).maps
    """

    form: str = "released"
    gates: int = 1
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> Gated:
        """`b h w c` -> `gates` maps like it, and the gates.

        Raises:
          ValueError: an unknown form.
          UserError: a kernel is named that cannot run here, or flax's BatchNorm as `norm`.
        """
        check_form(self.form)
        released = self.form == "released"
        conv = self.conv(self.gates, 1, parallel=self.gates, name="conv")
        norm = self.norm(name="bn") if released else None
        check_norm(norm)
        logits = conv(x)
        x = as_floating(x, logits.dtype)
        if reason := _reason_against_fusion(conv, norm, train):
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


def _reason_against_fusion(conv: nn.Module, norm: nn.Module | None, train: bool) -> str:
    """Why gates cannot be made and applied in one operation; empty if they can."""
    if not isinstance(conv, Conv) or not isinstance(norm, BatchNorm | None):
        return "its convolution and normalisation are not this package's own"
    if train and norm is not None and norm.groups > 1:
        return "BN normalizes groups of the batch apart (model.bn_groups)"
    return ""


class GateChain(Composite):
    """Released GTM gate: one map brought down to the lowest branch's size (section 3.2.2).

    A convolution to one channel at stride 1, then `halvings` 3x3 convolutions at stride 2, each
    followed by BN and ReLU.

    Attributes:
      halvings: how often the resolution is halved.
      kernel_size: of the first convolution: 3 over class logits, 1 over features.
    """

    halvings: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> FeatureMap:
        """`b h w c` -> logits `b h/2^halvings w/2^halvings 1` (sizes rounded up)."""
        parts = self.parts
        x = ConvBN(1, self.kernel_size, **parts, name="cbr0")(x, train)
        for k in range(1, self.halvings + 1):
            x = ConvBN(1, 3, stride=2, **parts, name=f"cbr{k}")(x, train)
        return x


def check_form(form: str) -> None:
    """Raises ValueError for a gate form that does not exist."""
    if form not in GATE_FORMS:
        raise ValueError(f"unknown gate form {form!r}: use one of {', '.join(GATE_FORMS)}")


def check_norm(norm: nn.Module | None) -> None:
    """Raises UserError for flax's BatchNorm: it would take `train` for its very opposite."""
    if isinstance(norm, nn.BatchNorm):
        raise UserError(
            "a gate calls its norm as norm(x, train), and flax.linen.BatchNorm would read that as "
            "use_running_average: give gsto_jax.BatchNorm"
        )
