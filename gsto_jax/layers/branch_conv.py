"""A 1x1 convolution of several branches that never makes their concatenation."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from gsto_jax.layers.conv import Conv, project
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.materialize import materialize
from gsto_jax.ops.packing import packed_kernel, project_and_upsample
from gsto_jax.ops.spatial_sharding import along_space


class BranchConv(Conv):
    """The 1x1 convolution of all branches, enlarged bilinearly to branch 0 and concatenated.

    A 1x1 convolution commutes with the enlarging, and falls into a sum over the branches. So each
    branch becomes its part of the result in one transposed convolution. The parameters are those of
    `Conv` on the concatenation.
    """

    @nn.compact
    def __call__(  # type: ignore[override]  # it takes branches where `Conv` takes a map
        self, branches: Sequence[Array], packs: Sequence[int]
    ) -> Array:
        """Convolves branches `b h_j w_j c_j`, each half of the one before.

        Args:
          branches: packed by `packs` (see `gsto_jax.ops.packing`).
          packs: of the branches, and of what follows them.

        Returns:
          `b h_0 w_0 features`, packed as branch 0.
        """
        branches = [as_floating(x, self.param_dtype) for x in branches]
        widths = [x.shape[-1] // by for x, by in zip(branches, packs, strict=False)]
        channels, out_pack = sum(widths), packs[0]
        starts = [sum(widths[:j]) for j in range(1, len(widths))]
        parts = jnp.split(self.drawn_kernel(channels)[0, 0], starts)
        placed, _, _ = packed_kernel(parts[0][None, None], 1, 1, out_pack, out_pack)
        y = project(branches[0], placed.astype(branches[0].dtype))
        for j in range(1, len(branches)):
            y += project_and_upsample(branches[j], parts[j], 2**j, packs[j], out_pack)
        return self.add_bias(materialize(along_space(y)), channels, out_pack)
