"""Dense fusion of branches, plain (HRNet) and gated (GFM, section 3.2.1)."""

from collections.abc import Sequence
from itertools import pairwise

import flax.linen as nn
from jax import Array

from gsto_jax.layers.blocks import ConvBN, DownChain
from gsto_jax.layers.conv import Conv, ModuleDef
from gsto_jax.layers.gates import GATE_FORMS, SelfGated
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.checks import (
    COUNT,
    IMPLEMENTATION,
    METHODS,
    PARTS,
    check,
    flag,
    one_of,
    optional,
)
from gsto_jax.ops.materialize import relu
from gsto_jax.ops.packing import FeatureMap, unpack
from gsto_jax.ops.resize import resize


class MultiScaleFusion(nn.Module):
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
      conv: the convolution to use.
      norm: the normalisation to use.
    """

    gate: str = "none"
    self_gate: bool = True
    upsample: str = "bilinear"
    align_corners: bool = False
    implementation: str | None = None
    targets: int | None = None
    conv: ModuleDef = Conv
    norm: ModuleDef = BatchNorm

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError, naming the argument and what it takes."""
        check(
            self,
            gate=one_of(("none", *GATE_FORMS)),
            self_gate=flag,
            upsample=one_of(METHODS),
            align_corners=flag,
            implementation=IMPLEMENTATION,
            targets=optional(COUNT),
            **PARTS,
        )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        branches: Sequence[FeatureMap],
        train: bool = False,
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
        sources, gates = self._gate_sources(branches, targets, train)
        fused = []
        for i in targets:
            transferred = [
                self._transfer(sources[j][i], j, i, branches[i].shape, train)
                for j in range(len(branches))
            ]
            fused.append(relu(sum(transferred[1:], transferred[0])))
        return fused, gates

    def _gate_sources(
        self, branches: Sequence[FeatureMap], targets: range, train: bool
    ) -> tuple[list[dict[int, FeatureMap]], dict[str, Array]]:
        """Returns the map that each source sends to each target, and the gates by name."""
        if self.gate == "none":
            return [dict.fromkeys(targets, branch) for branch in branches], {}
        sources: list[dict[int, FeatureMap]] = []
        named: dict[str, Array] = {}
        for j, branch in enumerate(branches):
            gated = [i for i in targets if i != j or self.self_gate]
            sources.append({j: branch})
            if not gated:
                continue
            gate = SelfGated(
                self.gate,
                len(gated),
                self.implementation,
                conv=self.conv,
                norm=self.norm,
                name=f"gate{j}",
            )
            found = gate(branch, train)
            gates = unpack(found.gates)
            for slot, i in enumerate(gated):
                sources[j][i] = found.maps[slot]
                named[f"gate{j}_to{i}"] = gates[..., slot : slot + 1]
        return sources, named

    def _transfer(
        self,
        x: FeatureMap,
        source: int,
        target: int,
        shape: Sequence[int],
        train: bool,
    ) -> FeatureMap:
        """Transfers a map from the scale of its source to the scale and the `shape` of a target."""
        if source == target:
            return x
        parts = {"conv": self.conv, "norm": self.norm, "name": f"path{source}_to{target}"}
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
