"""Every segmentation count of the reference, and the frozen names of our parameters."""

from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import PLAIN, VARIANTS, GSTOSpec, HRNet
from gsto_jax.models import count
from gsto_jax.models.initialize import abstract_variables
from gsto_jax.models.published import POSE_SIZE, ROWS, published

SUP, UNSUP, NONE, HEAD = "supervised", "unsupervised", "none", "head_only"

ROWS_EXACT = [
    ("w18_small_v2", PLAIN, 3923091, 3939579, 76856885248),
    ("w18_small_v2", GSTOSpec(gtm=(NONE,) * 3), 3926493, 3943107, 76936511488),
    ("w18_small_v2", GSTOSpec(gtm=(NONE, NONE, SUP)), 3945097, 3961969, 79353978880),
    ("w18_small_v2", GSTOSpec(), 3949292, 3966276, 79893372928),
    ("w18_small_v2", GSTOSpec(gtm=(SUP,) * 3), 4020138, 4037636, 89143255040),
    ("w18_small_v2", GSTOSpec(gtm=(UNSUP,) * 3), 3926956, 3943582, 76994322432),
    ("w18_small_v2", GSTOSpec(gfm=False, gtm=(UNSUP,) * 3), 3923554, 3940054, 76914696192),
    ("w18_small_v2", GSTOSpec(gfm=False, gtm=(SUP,) * 3), 4016736, 4034108, 89063628800),
    ("w18_small_v2", GSTOSpec(gfm=False, gtm=(HEAD,) * 3), 4016196, 4033556, 88995725312),
    ("w48", PLAIN, 65773843, 65859379, 747513053184),
    ("w48", GSTOSpec(), 65930442, 66017124, 766561886208),
    ("w18", PLAIN, 9606643, 9641119, 147401048064),
    ("w18", GSTOSpec(), 9634302, 9669324, 150467616768),
]


@pytest.mark.parametrize(("variant", "gsto", "conv", "params", "macs"), ROWS_EXACT)
def test_counts_are_exact(variant, gsto, conv, params, macs):
    total = count(HRNet(VARIANTS[variant], gsto, 19), (1024, 2048))
    assert (total.conv_params, total.params, total.macs) == (conv, params, macs)


@pytest.mark.parametrize(
    ("variant", "gsto", "conv", "params", "macs"),
    [
        ("w32", PLAIN, 28481777, 28536113, 17201258496),
        ("w48", PLAIN, 63516161, 63595745, 35306606592),
        ("w32", GSTOSpec(), 29561408, 29620538, 19502948016),
        ("w48", GSTOSpec(), 65928000, 66014682, 40407324336),
    ],
)
def test_pose_counts_are_exact(variant, gsto, conv, params, macs):
    head = "v1" if gsto == PLAIN else "v2"
    total = count(HRNet(VARIANTS[variant], gsto, 17, head=head), (384, 288))
    assert (total.conv_params, total.params, total.macs) == (conv, params, macs)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.place)
def test_printed_figures(row):
    """Our exact counts, rounded, are what the paper prints, but for two known misses."""
    model = HRNet(VARIANTS[row.variant], row.gsto, row.outputs, head=row.head)
    total = count(model, row.size)
    params = f"{total.params / 1e6:.1f}M" if row.is_pose else f"{total.conv_params / 1e6:.2f}M"
    ours = (params, f"{total.gmacs:.1f}")
    misses = {
        "Table 4, HRNetV2-W48": ("65.77M", "696.2"),
        "Table 4, GSTO-HRNet-W48": ("65.93M", "713.9"),
    }
    assert ours == misses.get(row.place, (row.params, row.gflops))


def test_published_row_is_found_only_for_its_network():
    assert published("w48", GSTOSpec(), 19).gflops == "714.0"
    assert published("w48", GSTOSpec(), 11) is None
    assert published("w18", GSTOSpec(), 19) is None
    assert published("w32", PLAIN, 17, "v1", POSE_SIZE).params == "28.5M"
    assert published("w32", PLAIN, 17, "v2", POSE_SIZE) is None


@pytest.mark.parametrize(("name", "gsto"), [("gsto", GSTOSpec()), ("plain", PLAIN)])
def test_variable_names_are_frozen(name, gsto):
    """Checkpoints depend on these names: a change here breaks every saved run."""
    variables = abstract_variables(HRNet(VARIANTS["w18_small_v2"], gsto, 19))
    ours = [f"{'/'.join(k)} {v.shape}" for k, v in sorted(flatten_dict(variables).items())]
    frozen = Path(__file__).parent / f"names_w18_small_v2_{name}.txt"
    assert ours == frozen.read_text().splitlines()
