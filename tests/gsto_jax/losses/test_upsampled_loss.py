"""The kernel compared with XLA and with NumPy."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.losses import cross_entropy
from gsto_jax.losses.upsampled import true_log_probability

IGNORE = 255


def case(batch=2, height=16, width=12, classes=19, factor=4, dtype=jnp.float32, scale=3.0):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(scale * rng.standard_normal((batch, height, width, classes)), dtype)
    labels = rng.integers(0, classes + 2, (batch, height * factor, width * factor))
    return logits, np.where(labels < classes, labels, IGNORE).astype(np.uint8)


@cache
def gradient_of(implementation):
    """The program of `value_and_gradient`, compiled once per shape."""

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(logits, labels, weights):
        log_p = true_log_probability(
            logits, labels, False, implementation, interpret=implementation == "pallas_tpu"
        )
        return (log_p * weights).sum(), log_p

    return gradient


def value_and_gradient(logits, labels, implementation):
    weights = np.random.default_rng(1).standard_normal(labels.shape).astype(np.float32)
    dlogits, log_p = gradient_of(implementation)(logits, labels, weights)
    return log_p, dlogits


@pytest.mark.parametrize(
    ("height", "width", "factor", "classes"), [(16, 12, 4, 59), (32, 5, 2, 19), (4, 8, 8, 2)]
)
def test_kernel_equals_xla(height, width, factor, classes):
    logits, labels = case(1, height, width, classes, factor)
    actual = value_and_gradient(logits, labels, "pallas_tpu")
    expected = value_and_gradient(logits, labels, "xla")
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def test_bfloat16_logits():
    """Interpolation of the rounded logits is exact in float32."""
    logits, labels = case(dtype=jnp.bfloat16)
    actual, gradient = value_and_gradient(logits, labels, "pallas_tpu")
    wide, wide_gradient = value_and_gradient(logits.astype(jnp.float32), labels, "xla")
    assert actual.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(actual, wide, rtol=1e-5, atol=2e-6)
    largest = np.abs(wide_gradient).max()
    np.testing.assert_allclose(
        gradient.astype(np.float32) / largest, wide_gradient / largest, atol=2**-8
    )


@pytest.mark.parametrize("implementation", ["xla", "pallas_tpu"])
def test_one_pixel_in_numpy(implementation):
    """Pixel (5, 2) of labels lies 7/8 down from row 0 and 1/8 right of column 0."""
    logits, labels = case()
    log_p, _ = value_and_gradient(logits, labels, implementation)
    x = np.asarray(logits, np.float64)[0]
    down, across = 5.5 / 4 - 0.5, 2.5 / 4 - 0.5
    top, left = 1 - down, 1 - across
    z = top * (left * x[0, 0] + across * x[0, 1]) + down * (left * x[1, 0] + across * x[1, 1])
    label = int(labels[0, 5, 2])
    expected = z[label] - np.log(np.exp(z).sum()) if label != IGNORE else 0.0
    np.testing.assert_allclose(float(log_p[0, 5, 2]), expected, atol=1e-5)
    assert not np.asarray(log_p)[np.asarray(labels) == IGNORE].any()


def test_far_logits_neither_overflow_nor_vanish():
    logits, labels = case(scale=300.0)
    actual = value_and_gradient(logits, labels, "pallas_tpu")
    expected = value_and_gradient(logits, labels, "xla")
    assert all(np.isfinite(x).all() for x in actual)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-3)


def test_chosen_implementation():
    logits, labels = case()

    def program(implementation, platform):
        f = jax.jit(lambda x: true_log_probability(x, labels, implementation=implementation))
        return f.trace(logits).lower(lowering_platforms=(platform,)).as_text()

    assert "tpu_custom_call" in program(None, "tpu")
    assert "tpu_custom_call" in program("pallas_tpu", "tpu")
    assert "tpu_custom_call" not in program("xla", "tpu")
    assert "tpu_custom_call" not in program(None, "cpu")


@pytest.mark.parametrize(
    ("kwargs", "corners", "reason"),
    [
        ({"height": 15}, False, "15 rows of logits for 60 of labels"),
        ({"factor": 3}, False, "upsamples by a divisor of 32"),
        ({}, True, "does not align corners"),
        ({"dtype": jnp.float16}, False, "takes bfloat16 and float32"),
    ],
)
def test_unavailable_implementation(kwargs, corners, reason):
    logits, labels = case(**kwargs)
    with pytest.raises(ValueError, match=f"'pallas_tpu' cannot run here: .*{reason}"):
        true_log_probability(logits, labels, corners, "pallas_tpu")
    out = jax.eval_shape(lambda x: true_log_probability(x, labels, corners), logits)
    assert out.shape == labels.shape
    with pytest.raises(ValueError, match="no GPU kernel"):
        true_log_probability(logits, labels, corners, "pallas_gpu")
    with pytest.raises(ValueError, match="implementation must be"):
        true_log_probability(logits, labels, corners, "cuda")


def test_each_device_runs_the_kernel_on_its_shard():
    logits, labels = case(4)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def f(logits, labels):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            g = jax.value_and_grad(
                lambda x: true_log_probability(
                    x, labels, implementation="pallas_tpu", interpret=True
                ).sum()
            )
            return g(logits)

    single = jax.jit(
        jax.value_and_grad(lambda x, y: true_log_probability(x, y, implementation="xla").sum())
    )(logits, labels)
    put = jax.device_put(logits, split), jax.device_put(labels, split)
    compiled = jax.jit(f, in_shardings=(split, split)).lower(*put).compile()
    assert "all-gather" not in compiled.as_text()
    sharded = compiled(*put)
    np.testing.assert_allclose(sharded[0], single[0], rtol=1e-5)
    np.testing.assert_allclose(sharded[1], single[1], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("ignore", [IGNORE, 3])
def test_ignored_pixels_have_no_gradient(ignore, monkeypatch):
    """Covers the kernel and XLA, and an ignore label that is also a class."""
    logits, labels = case()
    weights = tuple(np.linspace(0.5, 2, 19))

    def loss(implementation):
        def f(x):
            return cross_entropy(x, labels, ignore, False, weights, implementation)

        return jax.jit(jax.value_and_grad(f))(logits)

    xla = loss("xla")
    monkeypatch.setattr(
        "gsto_jax.losses.pixel.true_log_probability", partial(true_log_probability, interpret=True)
    )
    kernel = loss("pallas_tpu")
    np.testing.assert_allclose(float(kernel[0]), float(xla[0]), rtol=1e-6)
    np.testing.assert_allclose(kernel[1], xla[1], rtol=1e-4, atol=1e-8)
    valid = np.asarray(labels) != ignore
    assert (~valid).sum() > 0 and np.abs(xla[1]).max() > 0


def test_symbolic_sizes_and_indivisible_batches_use_xla():
    logits, labels = case(3)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert jax.jit(true_log_probability)(logits, labels).shape == labels.shape
        with pytest.raises(ValueError, match="batch of 3 does not divide over the 2 devices of 'd"):
            true_log_probability(logits, labels, implementation="pallas_tpu")
