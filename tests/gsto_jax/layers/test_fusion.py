"""Multi-scale fusion, GFM and GTM."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from gsto_jax import GFM, GTM, MultiScaleFusion
from gsto_jax.models.initialize import initial_variables
from tests.gsto_jax.host_variables import host_variables
from tests.gsto_jax.layers.applied import KEY, apply_drawn, apply_training, compiled_resize, normal

BRANCHES = [normal(1, 13, 9, 4), normal(1, 7, 5, 8, seed=1), normal(1, 4, 3, 16, seed=2)]


def test_fusion_is_the_sum_of_its_paths():
    fusion = MultiScaleFusion()
    (fused, gates), variables = apply_drawn(fusion, BRANCHES)
    assert gates == {}
    assert [x.shape for x in fused] == [x.shape for x in BRANCHES]

    def up(source, target):
        tree = variables["params"][f"path{source}_to{target}"]
        y = BRANCHES[source] @ tree["conv"]["kernel"][0, 0] / np.float32(np.sqrt(1 + 1e-5))
        return np.asarray(compiled_resize(y, BRANCHES[target].shape[1:3]))

    expected = np.maximum(BRANCHES[0] + up(1, 0) + up(2, 0), 0)
    np.testing.assert_allclose(fused[0], expected, atol=1e-5)


def test_gfm_with_gates_at_one_half_equals_fusion_of_half_the_branches():
    gfm = GFM(gate_style="paper")
    variables = host_variables(gfm, BRANCHES)
    params = dict(variables["params"])
    for j in range(3):
        params[f"gate{j}"] = jax.tree.map(np.zeros_like, params[f"gate{j}"])
    fused, gates = jax.jit(gfm.apply)({**variables, "params": params}, BRANCHES)
    gates = jax.device_get(gates)
    assert set(gates) == {f"gate{j}_to{i}" for i in range(3) for j in range(3)}
    assert all((gate == 0.5).all() for gate in gates.values())
    plain = {k: v for k, v in params.items() if not k.startswith("gate")}
    halves, _ = jax.jit(MultiScaleFusion().apply)(
        {**variables, "params": plain}, [0.5 * x for x in BRANCHES]
    )
    for gated, plain in zip(fused, halves, strict=True):
        np.testing.assert_allclose(gated, plain, atol=1e-5)


def test_self_gate_and_targets():
    (fused, gates), _ = apply_drawn(GFM(self_gate=False, targets=1), BRANCHES)
    assert len(fused) == 1
    assert set(gates) == {"gate1_to0", "gate2_to0"}


class _Gated(nn.Module):
    """A fusion of two branches and a transition, from one map."""

    style: str

    @nn.compact
    def __call__(self, x, train=False):
        plain = self.style == "none"
        fusion = MultiScaleFusion(self.style, implementation="xla", name="fusion")
        fused, gates = fusion([x, x[:, ::2, ::2]], train)
        gating, style = ("none", "released") if plain else ("unsupervised", self.style)
        new = GTM(4, gating, style=style, name="gtm")(fused, train)
        return [*fused, new.features], [*gates.values(), *([] if plain else [new.gate])]


def test_gate_styles_at_the_start():
    """A residual gate changes nothing; BN of an open one starts with its bias."""
    x = normal(4, 8, 8, 3)
    (expected, _), (actual, gates) = (
        apply_training(_Gated(style), initial_variables(_Gated(style), seed=0), x)[0]
        for style in ("none", "residual")
    )
    for gated, plain in zip(actual, expected, strict=True):
        np.testing.assert_allclose(gated, plain, atol=1e-6)
    assert len(gates) == 5 and all((np.asarray(gate) == 1).all() for gate in gates)
    params = initial_variables(_Gated("open"), seed=0)["params"]
    first, last = (params["gtm"]["gate"][f"cbr{k}"]["bn"]["bias"] for k in (0, 1))
    assert (first == 0).all() and (last == 3).all()
    assert (params["fusion"]["gate1"]["bn"]["bias"] == 3).all()


@pytest.mark.parametrize("style", ["released", "paper"])
@pytest.mark.parametrize("gating", ["none", "supervised", "unsupervised", "head_only"])
def test_gtm_makes_the_next_branch(gating, style):
    gtm = GTM(32, gating, num_classes=3, style=style)
    out, variables = jax.eval_shape(gtm.init_with_output, KEY, BRANCHES)
    assert out.features.shape == (1, 2, 2, 32)
    assert (out.logits is not None) == (gating in ("supervised", "head_only"))
    if out.logits is not None:
        assert out.logits.shape == (1, 13, 9, 3)
    if gating in ("none", "head_only"):
        assert out.gate is None
        assert "gate" not in variables["params"]
    else:
        assert out.gate.shape == ((1, 4, 3, 1) if style == "released" else (1, 13, 9, 1))


def test_released_gtm_scales_the_lowest_branch():
    gtm = GTM(32, "unsupervised")
    out, variables = apply_drawn(gtm, BRANCHES)
    plain = {name: {"down": tree["down"]} for name, tree in variables.items()}
    gated = np.asarray(out.gate) * BRANCHES[2]
    expected = jax.jit(GTM(32, "none").apply)(plain, [*BRANCHES[:2], gated])
    np.testing.assert_allclose(out.features, expected.features, atol=1e-5)


def test_invalid_gtms():
    with pytest.raises(ValueError, match="gating must be"):
        GTM(8, "superb").init(KEY, BRANCHES)
    with pytest.raises(ValueError, match="num_classes must be"):
        GTM(8, "supervised").init(KEY, BRANCHES)
    with pytest.raises(ValueError, match="style must be"):
        GTM(8, "unsupervised", style="printed").init(KEY, BRANCHES)
