"""HRNets that trace and compile faster than the variants of the package."""

from dataclasses import replace

from gsto_jax import HRNetSpec

TINY = HRNetSpec(
    widths=(4, 8, 12, 16),
    modules=(1, 1, 1),
    blocks=1,
    stage1_blocks=1,
    stage1_planes=4,
    stem_width=8,
)
PACKABLE = replace(TINY, widths=(4, 8, 16, 32), stage1_planes=8)
"""Its widths divide the 16 lanes of the tests of packing."""
