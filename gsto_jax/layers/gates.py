"""The networks that compute a gate: logits before the sigmoid, which `apply_gates` takes."""

import flax.linen as nn
import jax
from jax import Array

from gsto_jax.layers.blocks import ConvBN
from gsto_jax.layers.conv import Conv, ModuleDef
from gsto_jax.layers.norm import BatchNorm

GATE_FORMS = ("released", "paper")


class SpatialGate(nn.Module):
    """Logits of spatial gates: one scalar a pixel from that pixel's channels (section 3.1).

    Paper form (eq. 4): a 1x1 convolution, so `g = sigmoid(rho . F)`. Released form: the same
    convolution, then BN and ReLU, so that `g` lies in [0.5, 1). Several gates of one map are one
    convolution to as many channels, which equals as many separate gates exactly.

    Attributes:
      form: "released" or "paper".
      gates: how many independent gates.
      conv: the convolution to use.
      norm: the normalisation to use.

    Example:
      >>> logits = SpatialGate(form="paper")(features)  # b h w 1
      >>> (gated,), gate = apply_gates(features, logits)
    """

    form: str = "released"
    gates: int = 1
    conv: ModuleDef = Conv
    norm: ModuleDef = BatchNorm

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """`b h w c` -> logits `b h w gates`.

        Raises:
          ValueError: an unknown form.
        """
        check_form(self.form)
        logits = self.conv(self.gates, 1, parallel=self.gates, name="conv")(x)
        if self.form == "paper":
            return logits
        return jax.nn.relu(self.norm(name="bn")(logits, train))


class GateChain(nn.Module):
    """Released GTM gate: one map brought down to the lowest branch's size (section 3.2.2).

    A convolution to one channel at stride 1, then `halvings` 3x3 convolutions at stride 2, each
    followed by BN and ReLU.

    Attributes:
      halvings: how often the resolution is halved.
      kernel_size: of the first convolution: 3 over class logits, 1 over features.
      conv: the convolution to use.
      norm: the normalisation to use.
    """

    halvings: int
    kernel_size: int
    conv: ModuleDef = Conv
    norm: ModuleDef = BatchNorm

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """`b h w c` -> logits `b h/2^halvings w/2^halvings 1` (sizes rounded up)."""
        parts = {"conv": self.conv, "norm": self.norm}
        x = ConvBN(1, self.kernel_size, **parts, name="cbr0")(x, train)
        for k in range(1, self.halvings + 1):
            x = ConvBN(1, 3, stride=2, **parts, name=f"cbr{k}")(x, train)
        return x


def check_form(form: str) -> None:
    """Raises ValueError for a gate form that does not exist."""
    if form not in GATE_FORMS:
        raise ValueError(f"unknown gate form {form!r}: use one of {', '.join(GATE_FORMS)}")
