"""Networks traced block by block have the variables of a whole trace."""

import jax
import numpy as np
import pytest

from gsto_jax import PLAIN, RESNETS, AttentionSpec, ContextNet, GSTOSpec, HRNet, HRNetSpec
from gsto_jax.models.tracing import abstract_image, trace_init

SPEC = HRNetSpec(
    widths=(4, 8, 12, 16),
    modules=(1, 1, 2),
    blocks=2,
    stage1_blocks=1,
    stage1_planes=4,
    stem_width=8,
)
SIZE = (64, 96)
NETWORKS = {
    "packed": HRNet(SPEC, GSTOSpec(), 5, implementation="xla", lanes=16),
    "remat": HRNet(SPEC, PLAIN, 5, implementation="xla", remat=True),
    "attention": HRNet(SPEC, PLAIN, 5, attention=AttentionSpec(kind="channel"), head="v1"),
    "context": ContextNet(RESNETS["resnet_mini"], "ppm", "supervised", 5),
}


@pytest.mark.parametrize(
    "name",
    [
        "packed",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("remat", "attention")),
        "context",
    ],
)
def test_variables_and_layers_are_those_of_a_whole_trace(name):
    """At the first and at the second trace, of which the latter repeats whole blocks."""
    model = NETWORKS[name]
    init = lambda image: model.init(jax.random.key(0), image)  # noqa: E731
    expected = jax.eval_shape(init, abstract_image(model, SIZE))
    first, second = trace_init(model, SIZE), trace_init(model, SIZE)
    assert first.variables == second.variables == expected
    assert first.uses == second.uses
    sizes = {(*use.path, name): size for use in first.uses for name, size in use.sizes.items()}
    assert sizes == {
        tuple(key.key for key in path): int(np.prod(leaf.shape))
        for path, leaf in jax.tree.leaves_with_path(expected["params"])
    }
