"""Gates against equations 3 and 4, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import Conv, GateLogits, SelfGated, apply_gates
from tests.gsto_jax.host_variables import host_variables
from tests.gsto_jax.layers.applied import KEY, apply_drawn, apply_training, normal


def test_apply_gates_known_values():
    x = normal(2, 3, 5, 4)
    logits = np.stack([np.zeros((2, 3, 5)), np.full((2, 3, 5), np.log(3.0))], -1)
    (half, three_quarters), gates = apply_gates(jnp.asarray(x), jnp.asarray(logits, np.float32))
    np.testing.assert_allclose(half, 0.5 * x, rtol=1e-6)
    np.testing.assert_allclose(three_quarters, 0.75 * x, rtol=1e-6)
    np.testing.assert_allclose(gates[0, 0, 0], [0.5, 0.75], rtol=1e-6)
    with pytest.raises(ValueError, match="must share"):
        apply_gates(jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 2, 1)))


def test_paper_gate_is_equation_4():
    x = normal(2, 3, 5, 4)
    gate = GateLogits(style="paper")
    logits, variables = apply_drawn(gate, x)
    assert set(variables) == {"params"}
    rho = variables["params"]["conv"]["kernel"]
    assert rho.shape == (1, 1, 4, 1)
    np.testing.assert_allclose(logits, x @ rho[0, 0], atol=1e-5)


def test_released_gate_normalizes_and_rectifies():
    x = normal(2, 6, 5, 4)
    gate = GateLogits(style="released")
    variables = host_variables(gate, x)
    logits, _ = apply_training(gate, variables, x)
    raw = x @ variables["params"]["conv"]["kernel"][0, 0]
    expected = np.maximum((raw - raw.mean()) / np.sqrt(raw.var() + 1e-5), 0)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    _, gates = apply_gates(x, logits)
    assert float(gates.min()) >= 0.5 and float(gates.max()) < 1


def test_joint_gates_equal_separate_gates():
    x = normal(2, 6, 5, 4)
    merged = GateLogits(num_gates=3)
    variables = host_variables(merged, x)
    together, _ = apply_training(merged, variables, x)
    for n in range(3):
        one = jax.tree.map(lambda leaf, n=n: leaf[..., n : n + 1], variables)
        single, _ = apply_training(GateLogits(), one, x)
        np.testing.assert_allclose(together[..., n : n + 1], single, atol=1e-6)


def test_a_gate_commutes_with_a_1x1_convolution():
    x, logits = normal(2, 6, 5, 4), normal(2, 6, 5, 1, seed=1)
    conv = Conv(7)
    variables = conv.init(KEY, x)
    (before,), _ = apply_gates(x, logits)
    (after,), _ = apply_gates(conv.apply(variables, x), logits)
    np.testing.assert_allclose(conv.apply(variables, before), after, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "train", "kernels"), [(1, False, 0), (7, False, 0), (8, False, 1), (1, True, 2)]
)
def test_kernels_on_tpus_in_training_and_with_full_tiles_of_images(images, train, kernels):
    layer = SelfGated(num_gates=2)
    x = jnp.ones((images, 8, 8, 128), jnp.bfloat16)
    variables = layer.init(KEY, x)
    run = jax.jit(lambda x: layer.apply(variables, x, train, mutable=["batch_stats"])[0].maps)
    program = run.trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert program.count("tpu_custom_call") == kernels
