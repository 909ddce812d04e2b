"""The transition to a new branch: plain (HRNet) and gated (GTM, section 3.2.2)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Real

from gsto_jax.gate import apply_gates
from gsto_jax.layers.blocks import Composite, ConvBN, StridedConvChain
from gsto_jax.layers.gates import StridedGateLogits, check_gating, get_style
from gsto_jax.layers.heads import SegmentationHead, concatenate_branches
from gsto_jax.layers.scale_transfer import GSTOOutput, SupervisedGSTO, UnsupervisedGSTO
from gsto_jax.ops.checks import at_least
from gsto_jax.ops.packing import FeatureMap, Packed, pack, pack_like, unpack

_GATE_PACK_FACTOR = 16  # of the one-channel maps in StridedGateLogits, where maps are packed


class GTM(Composite):
    """Gated Transition Module: creates the next lower-resolution branch from a stage's branches.

    Plain HRNet applies a 3x3 stride-2 convolution, BN and ReLU to the lowest-resolution branch.
    The style "released" scales that branch first, by a gate computed from all branches: supervised,
    `StridedGateLogits` reads the class logits of a `SegmentationHead` on the concatenated branches;
    unsupervised, it reads the concatenation. The style "paper" scales the concatenation by its gate
    (eq. 4; supervised eq. 5, 6), and a chain of 3x3 stride-2 convolutions makes the new branch. The
    other styles gate the lowest-resolution branch as "released" does, by gates of another form; see
    `GateLogits`.

    Attributes:
      features: channels of the new branch.
      gating: "none" (plain), "supervised", "unsupervised", or "head_only" (a supervised head
        without a gate, the paper's "w/ sup" control).
      num_classes: classes of the supervised head.
      style: one of `GATE_STYLES`.
      align_corners: alignment of the upsampling before the concatenation.

    Example:
      >>> branches = [jnp.ones((1, 16 >> j, 16 >> j, 18 << j)) for j in range(3)]
      >>> gtm = GTM(144, num_classes=19)
      >>> output, variables = gtm.init_with_output(jax.random.key(0), branches)
      >>> output.features.shape, output.logits.shape, output.gate.shape
      ((1, 2, 2, 144), (1, 16, 16, 19), (1, 4, 4, 1))
    """

    rules: ClassVar = {"num_classes": at_least(0)}

    features: int
    gating: str = "supervised"
    num_classes: int = 0
    style: str = "released"
    align_corners: bool = False

    @nn.compact
    def __call__(
        self, branches: Sequence[Real[FeatureMap, "b _ _ _"]], train: bool = False
    ) -> GSTOOutput:
        """Creates a branch with half the resolution of the last one.

        Args:
          branches: `b h_j w_j c_j`, highest resolution first.
          train: whether BN uses the statistics of the batch.

        Returns:
          The new branch, the head's logits at the size of branch 0, and the gate. Logits and gate
          are unpacked.

        Raises:
          ValueError: an unknown gating or style, or a supervised head without classes.
        """
        check_gating(self.gating, self.num_classes)
        if not get_style(self.style).normalized and self.gating in ("supervised", "unsupervised"):
            return self._gate_concatenation(branches, train)
        return self._gate_lowest(branches, train)

    def _gate_lowest(self, branches: Sequence[FeatureMap], train: bool) -> GSTOOutput:
        logits, gate, lowest = None, None, branches[-1]
        if self.gating in ("supervised", "head_only"):
            head = SegmentationHead(
                self.num_classes, align_corners=self.align_corners, **self.factories, name="head"
            )
            logits = head(branches, train)
        if self.gating in ("supervised", "unsupervised"):
            supervised = self.gating == "supervised"
            gate_input: Any = (
                logits if supervised else concatenate_branches(branches, self.align_corners)
            )
            halvings = len(branches) - 1
            if isinstance(lowest, Packed):
                gate_input = _pack_gate_input(gate_input, halvings)
            gate_logits = StridedGateLogits(
                halvings,
                3 if supervised else 1,
                self.style,
                **self.factories,
                name="gate",
            )
            scores = pack_like(unpack(gate_logits(gate_input, train)), lowest)
            (lowest,), gates = apply_gates(lowest, scores, get_style(self.style).maximum)
            gate = unpack(gates)
        down = ConvBN(self.features, 3, stride=2, **self.factories, name="down")
        return GSTOOutput(down(lowest, train), logits, gate)

    def _gate_concatenation(self, branches: Sequence[FeatureMap], train: bool) -> GSTOOutput:
        concatenated = concatenate_branches(branches, self.align_corners)
        down = StridedConvChain(
            self.features, len(branches), last_relu=True, **self.factories, name="down"
        )
        kwargs = {"style": "paper", **self.factories, "name": "gsto"}
        gsto = (
            UnsupervisedGSTO(down, **kwargs)
            if self.gating == "unsupervised"
            else SupervisedGSTO(down, self.num_classes, **kwargs)
        )
        output = gsto(concatenated, train)
        lowest = branches[-1]
        factors = lowest.factors if isinstance(lowest, Packed) else {}
        return output._replace(features=pack(output.features, factors))


def _pack_gate_input(x: Array, halvings: int) -> Packed:
    """Returns `x` as a map whose `StridedGateLogits` are packed, by half at each halving."""
    factor = math.gcd(x.shape[2], _GATE_PACK_FACTOR)
    factor = factor if factor >> halvings else 1
    factors = {x.shape[2] >> n: max(factor >> n, 1) for n in range(halvings + 1)}
    return Packed(x, 1, FrozenDict(factors))
