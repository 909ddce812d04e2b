"""Dense multi-scale fusion of branches: plain (HRNet) and gated (GFM, section 3.2.1)."""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from gsto_jax.layers.blocks import Composite, ConvBN, StridedConvChain
from gsto_jax.layers.gates import GATE_STYLES, SelfGated
from gsto_jax.ops.checks import one_of
from gsto_jax.ops.materialize import relu
from gsto_jax.ops.packing import FeatureMap, unpack
from gsto_jax.ops.resize import resize


class MultiScaleFusion(Composite):
    """Dense fusion of parallel branches: `out_i = relu(sum_j path_ji(gate_ji * branch_j))`.

    Branch 0 has the highest resolution; each following branch has half of it, rounded up. The path
    from source j to target i is

    - j > i (up): 1x1 convolution, BN, and resampling to the target's size;
    - j < i (down): a chain of 3x3 stride-2 convolutions with BN and, on all but the last, ReLU;
    - j = i: the identity.

    Attributes:
      gate_style: "none" (HRNet), or one of `GATE_STYLES` (GFM); see `GateLogits`.
      self_gate: whether the identity path j = i has a gate too.
      upsample: "bilinear" or "nearest".
      align_corners: alignment of the bilinear upsampling.
      implementation: implementation of the gates (see `gsto_jax.gate.gated_maps`).
      targets: number of branches to produce, from branch 0; None for all.
    """

    rules: ClassVar = {"gate_style": one_of(("none", *GATE_STYLES))}

    gate_style: str = "none"
    self_gate: bool = True
    upsample: str = "bilinear"
    align_corners: bool = False
    implementation: str | None = None
    targets: int | None = None

    @nn.compact
    def __call__(
        self, branches: Sequence[Float[FeatureMap, "b _ _ _"]], train: bool = False
    ) -> tuple[list[Float[FeatureMap, "b _ _ _"]], dict[str, Float[Array, "b _ _ 1"]]]:
        """Fuses branches `b h_j w_j c_j`.

        Args:
          branches: feature maps, highest resolution first.
          train: whether BN uses the statistics of the batch.

        Returns:
          The fused branches, each with its input's shape, and the gates `b h_j w_j 1` by name
          `gate{j}_to{i}` (source j, target i).

        Raises:
          ValueError: a branch is not half the size of the previous one, rounded up.
        """
        _check_sizes(branches)
        targets = range(len(branches) if self.targets is None else self.targets)
        gated_branches = []
        gates: dict[str, Array] = {}
        for j, branch in enumerate(branches):
            gated, branch_gates = self._gate(branch, j, targets, train)
            gated_branches.append(gated)
            gates |= branch_gates
        fused = []
        for i in targets:
            paths = [
                self._path(gated[i], source=j, target=i, shape=branches[i].shape, train=train)
                for j, gated in enumerate(gated_branches)
            ]
            fused.append(relu(sum(paths[1:], paths[0])))
        return fused, gates

    def _gate(
        self, branch: FeatureMap, source: int, targets: range, train: bool
    ) -> tuple[dict[int, FeatureMap], dict[str, Array]]:
        """Returns the gated map of a source branch by target, and the gates by name."""
        maps = dict.fromkeys(targets, branch)
        if self.gate_style == "none":
            return maps, {}
        gated_targets = [i for i in targets if i != source or self.self_gate]
        if not gated_targets:
            return maps, {}
        gate = SelfGated(
            self.gate_style,
            len(gated_targets),
            self.implementation,
            **self.factories,
            name=f"gate{source}",
        )
        gated = gate(branch, train)
        gates = unpack(gated.gates)
        maps |= dict(zip(gated_targets, gated.maps, strict=True))
        return maps, {
            f"gate{source}_to{i}": gates[..., n : n + 1] for n, i in enumerate(gated_targets)
        }

    def _path(
        self, x: FeatureMap, *, source: int, target: int, shape: Sequence[int], train: bool
    ) -> FeatureMap:
        """Transfers a map from the scale of branch `source` to the `shape` of branch `target`."""
        if source == target:
            return x
        name = f"path{source}_to{target}"
        if source < target:
            down = StridedConvChain(shape[-1], target - source, **self.factories, name=name)
            return down(x, train)
        x = ConvBN(shape[-1], 1, relu=False, **self.factories, name=name)(x, train)
        return resize(x, shape[1:3], self.upsample, self.align_corners)


class GFM(MultiScaleFusion):
    """Gated Fusion Module: dense fusion with a gate for every pair of source and target.

    Example:
      >>> branches = [jnp.ones((1, 16 >> j, 16 >> j, 18 << j)) for j in range(3)]
      >>> (fused, gates), variables = GFM().init_with_output(jax.random.key(0), branches)
      >>> gates["gate2_to0"].shape  # gate on branch 2 for target branch 0
      (1, 4, 4, 1)
    """

    gate_style: str = "released"


def _check_sizes(branches: Sequence[FeatureMap]) -> None:
    for (j, high), low in zip(enumerate(branches), branches[1:], strict=False):
        # The output size of a stride-2 convolution, written so that symbolic sizes match.
        expected = tuple((side - 1) // 2 + 1 for side in high.shape[1:3])
        if low.shape[1:3] != expected:
            raise ValueError(
                f"branches[{j + 1}] must have the size {expected}, half of branches[{j}] rounded "
                f"up; got {low.shape[1:3]}"
            )
