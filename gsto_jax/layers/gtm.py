"""The birth of a branch, plain (HRNet) and gated (GTM, section 3.2.2)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
from flax.core import FrozenDict
from jax import Array

from gsto_jax.gate import apply_gates
from gsto_jax.layers.blocks import Composite, ConvBN, DownChain
from gsto_jax.layers.gates import GateChain, check_form
from gsto_jax.layers.heads import SegmentationHead, concatenate_branches
from gsto_jax.layers.scale_transfer import GSTOOutput, SupervisedGSTO, UnsupervisedGSTO
from gsto_jax.ops.checks import at_least
from gsto_jax.ops.packing import FeatureMap, Packed, pack, pack_like, unpack

_CHAIN_PACK = 16  # of the one channel of a chain, where maps are packed
GTM_KINDS = ("none", "supervised", "unsupervised", "head_only")


class GTM(Composite):
    """Gated Transition Module: makes the next, lowest-resolution branch from those of a stage.

    Plain HRNet sends the lowest-resolution branch through a 3x3 stride-2 convolution, BN and ReLU.
    Released form: a gate computed from all branches scales that branch first. Supervised, a
    `SegmentationHead` on the concatenated branches predicts classes, and a `GateChain` over its
    logits makes the gate; unsupervised, the chain reads the concatenation itself. Paper form: the
    gate (eq. 4, or eq. 5 and 6) scales the concatenation, and a chain of 3x3 stride-2 convolutions
    takes the product to the new branch.

    Attributes:
      features: channels of the new branch.
      kind: "none" (plain), "supervised", "unsupervised", or "head_only" (a supervised head that
        gates nothing, the paper's "w/ sup" control).
      num_classes: of the supervised head.
      form: "released" or "paper".
      align_corners: of the upsampling before concatenation.

    Example:
      >>> branch, logits, gate = GTM(256, num_classes=19).apply(variables, [x0, x1, x2])
      >>> # logits at the size of x0, gate at that of x2
    """

    rules: ClassVar = {"num_classes": at_least(0)}

    features: int
    kind: str = "supervised"
    num_classes: int = 0
    form: str = "released"
    align_corners: bool = False

    @nn.compact
    def __call__(self, branches: Sequence[FeatureMap], train: bool = False) -> GSTOOutput:
        """Creates a branch of half the resolution of the last one.

        Args:
          branches: `b h_j w_j c_j`, highest resolution first.
          train: normalizes by the batch's statistics.

        Returns:
          The new branch, the head's logits at the size of branch 0, and the gate, both plain.

        Raises:
          ValueError: an unknown kind or form, or a supervised kind without classes.
        """
        if self.kind not in GTM_KINDS:
            raise ValueError(f"unknown GTM {self.kind!r}: use one of {', '.join(GTM_KINDS)}")
        if self.kind in ("supervised", "head_only") and self.num_classes < 1:
            raise ValueError(f"a {self.kind} GTM needs num_classes, the channels of its head")
        check_form(self.form)
        if self.form == "paper" and self.kind in ("supervised", "unsupervised"):
            return self._paper(branches, train)
        return self._released(branches, train)

    def _released(self, branches: Sequence[FeatureMap], train: bool) -> GSTOOutput:
        parts = self.parts
        logits, gate, lowest = None, None, branches[-1]
        evidence: Any
        if self.kind != "none":
            if self.kind == "unsupervised":
                evidence = concatenate_branches(branches, self.align_corners)
            else:
                of_head = {**parts, "align_corners": self.align_corners, "name": "head"}
                head = SegmentationHead(self.num_classes, **of_head)
                evidence = logits = head(branches, train)
            if self.kind != "head_only":
                kernel_size = 3 if self.kind == "supervised" else 1
                halvings = len(branches) - 1
                chain = GateChain(halvings, kernel_size, **parts, name="gate")
                if isinstance(lowest, Packed):
                    evidence = _packed_chain(evidence, halvings)
                scores = pack_like(unpack(chain(evidence, train)), lowest)
                (lowest,), gates = apply_gates(lowest, scores)
                gate = unpack(gates)
        down = ConvBN(self.features, 3, stride=2, **parts, name="down")
        return GSTOOutput(down(lowest, train), logits, gate)

    def _paper(self, branches: Sequence[FeatureMap], train: bool) -> GSTOOutput:
        parts = self.parts
        evidence = concatenate_branches(branches, self.align_corners)
        chain = {"last_relu": True, **parts, "name": "down"}
        down = DownChain(self.features, len(branches), **chain)
        if self.kind == "unsupervised":
            made = UnsupervisedGSTO(down, "paper", **parts, name="gsto")(evidence, train)
        else:
            gsto = SupervisedGSTO(down, self.num_classes, "paper", **parts, name="gsto")
            made = gsto(evidence, train)
        lowest = branches[-1]
        factors = lowest.factors if isinstance(lowest, Packed) else {}
        return made._replace(features=pack(made.features, factors))


def _packed_chain(x: Array, halvings: int) -> Packed:
    """Returns a map whose `GateChain` packs its one channel, and less so at each halving."""
    factor = math.gcd(x.shape[2], _CHAIN_PACK)
    factor = factor if factor >> halvings else 1
    later = {x.shape[2] >> n: max(factor >> n, 1) for n in range(halvings + 1)}
    return Packed(x, 1, FrozenDict(later))
