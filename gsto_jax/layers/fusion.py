"""Dense fusion of branches, plain (HRNet) and gated (GFM, section 3.2.1)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import flax.linen as nn
from jax import Array

from gsto_jax.layers.blocks import Composite, ConvBN, DownChain
from gsto_jax.layers.gates import GATE_FORMS, SelfGated
from gsto_jax.ops.checks import (
    one_of,
)
from gsto_jax.ops.materialize import relu
from gsto_jax.ops.packing import FeatureMap, unpack
from gsto_jax.ops.resize import resize


class MultiScaleFusion(Composite):
    """Every target branch i becomes `relu(sum_j path_ij(gate_ij * branch_j))`.

    Branch 0 has the highest resolution; each next one is half of it, rounded up. Upwards a path is
    a 1x1 convolution and BN, then resampling to the target's size; downwards a chain of 3x3
    stride-2 convolutions with BN and, on all but the last, ReLU; j = i is the identity.

    Attributes:
      gate: "none" (HRNet), "released" or "paper" (GFM).
      self_gate: gates the identity path j = i too.
      upsample: "bilinear" or "nearest".
      align_corners: of the bilinear upsampling.
      implementation: of the gates (`gsto_jax.gate.gated_maps`).
      targets: how many branches to produce, from branch 0; None for all.
    """

    rules: ClassVar = {"gate": one_of(("none", *GATE_FORMS))}

    gate: str = "none"
    self_gate: bool = True
    upsample: str = "bilinear"
    align_corners: bool = False
    implementation: str | None = None
    targets: int | None = None

    @nn.compact
    def __call__(
        self, branches: Sequence[FeatureMap], train: bool = False
    ) -> tuple[list[FeatureMap], dict[str, Array]]:
        """Fuses branches `b h_j w_j c_j`.

        Returns:
          The fused branches, each of the shape it had, and the gates `b h_j w_j 1` by name
          `gate{j}_to{i}` (source j, target i).

        Raises:
          ValueError: a branch is not half of the one before, rounded up.
        """
        for above, below in pairwise(x.shape[1:3] for x in branches):
            # Written as convolutions count, so that it holds of symbolic sizes too.
            if below != tuple((side - 1) // 2 + 1 for side in above):
                raise ValueError(
                    f"a branch of {below} follows one of {above}: each must be half of the one "
                    "before, rounded up"
                )
        targets = range(len(branches) if self.targets is None else self.targets)
        sent = []
        gates: dict[str, Array] = {}
        for j, branch in enumerate(branches):
            maps, of_branch = self._gated(branch, j, targets, train)
            sent.append(maps)
            gates |= of_branch
        fused = []
        for i in targets:
            paths = [
                self._transfer(maps[i], (j, i), branches[i].shape, train)
                for j, maps in enumerate(sent)
            ]
            fused.append(relu(sum(paths[1:], paths[0])))
        return fused, gates

    def _gated(
        self, branch: FeatureMap, source: int, targets: range, train: bool
    ) -> tuple[dict[int, FeatureMap], dict[str, Array]]:
        """Returns the maps that a branch sends to its targets, and the gates by name."""
        maps = dict.fromkeys(targets, branch)
        gated = [i for i in targets if self.gate != "none" and (i != source or self.self_gate)]
        if not gated:
            return maps, {}
        parts = {**self.parts, "name": f"gate{source}"}
        found = SelfGated(self.gate, len(gated), self.implementation, **parts)(branch, train)
        gates = unpack(found.gates)
        maps |= dict(zip(gated, found.maps, strict=True))
        return maps, {f"gate{source}_to{i}": gates[..., n : n + 1] for n, i in enumerate(gated)}

    def _transfer(
        self, x: FeatureMap, path: tuple[int, int], shape: Sequence[int], train: bool
    ) -> FeatureMap:
        """Takes a map from the scale of the path's source to the `shape` of its target."""
        source, target = path
        if source == target:
            return x
        parts = {**self.parts, "name": f"path{source}_to{target}"}
        if source < target:
            return DownChain(shape[-1], target - source, **parts)(x, train)
        x = ConvBN(shape[-1], 1, relu=False, **parts)(x, train)
        return resize(x, shape[1:3], self.upsample, self.align_corners)


class GFM(MultiScaleFusion):
    """Gated Fusion Module: `MultiScaleFusion` with a gate on every pair (source, target).

    Example:
      >>> fused, gates = GFM().apply(variables, [branch0, branch1, branch2])
      >>> gates["gate2_to0"]  # what branch 2 lets through to branch 0, b h_2 w_2 1
    """

    gate: str = "released"
