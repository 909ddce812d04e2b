"""Layers on packed maps compared with layers on plain maps."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.layers import BatchNorm, Conv, SegmentationHead, resize
from gsto_jax.models.specs import VARIANTS
from gsto_jax.ops.packing import (
    LANES,
    pack,
    pack_factors,
    packed_kernel,
    project_and_upsample,
    unpack,
    upsample,
)
from tests.gsto_jax.host_variables import host_variables

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 8, 5)), jnp.float32)
KEY = jax.random.key(0)


@partial(jax.jit, static_argnums=0)
def apply_training(layer, variables, x):
    return layer.apply(variables, x, True, mutable=["batch_stats"])


def test_pack_concatenates_neighbors():
    packed = pack(X, {8: 4})
    assert (packed.data.shape, packed.shape) == ((2, 6, 2, 20), X.shape)
    np.testing.assert_array_equal(packed.data[0, 0, 1, 5:10], X[0, 0, 5])
    np.testing.assert_array_equal(unpack(packed), X)
    assert pack(X, {}) is X and unpack(X) is X


def test_maps_of_other_factors_are_not_added():
    assert (pack(X, {8: 4}) + pack(X, {8: 4})).factor == 4
    with pytest.raises(ValueError, match="packed by 4 and 2"):
        pack(X, {8: 4}) + pack(X, {8: 2})


@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation", "factor", "out"),
    [
        *((3, 1, 1, 2, 2), (3, 1, 1, 4, 4), (3, 2, 1, 4, 2), (3, 2, 1, 2, 1), (3, 2, 1, 2, 2)),
        *((3, 1, 2, 4, 4), (1, 1, 1, 2, 4), (1, 1, 1, 1, 4), (3, 1, 1, 1, 8), (5, 2, 1, 8, 4)),
    ],
)
def test_convolutions(kernel_size, stride, dilation, factor, out):
    conv = Conv(7, kernel_size, stride, dilation, use_bias=True)
    variables = host_variables(conv, X)

    @jax.jit
    def both(variables, x):
        packed = conv.apply(variables, pack(pack(x, {8: factor}), {8 // stride: out}))
        assert packed.factor == out
        return unpack(packed), conv.apply(variables, x)

    np.testing.assert_allclose(*both(variables, X), atol=1e-5)


def test_incompatible_factors():
    with pytest.raises(ValueError, match="stride 2"):
        packed_kernel(jnp.zeros((3, 3, 1, 1)), 2, 1, 4, 1)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("scale", "factor", "out"),
    [(2, 1, 1), (2, 2, 4), (4, 1, 2), (8, 1, 4), (8, 2, 1), (2, 2, 1), (1, 2, 2), (4, 2, 8)],
)
def test_upsampling(scale, factor, out, method):
    size = (X.shape[1] * scale, X.shape[2] * scale)

    shape = (X.shape[0], *size, X.shape[3])
    weights = np.cos(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)

    def resize_packed(x):
        return unpack(resize(pack(pack(x, {8: factor}), {size[1]: out}), size, method))

    @jax.jit
    def values_and_gradients(x):
        functions = (lambda x: resize(x, size, method), resize_packed)
        values, pulls = zip(*(jax.vjp(f, x) for f in functions), strict=True)
        return values, [pull(weights)[0] for pull in pulls]

    (plain, packed), (dx_plain, dx_packed) = values_and_gradients(X)
    np.testing.assert_allclose(packed, plain, atol=2e-6)
    np.testing.assert_allclose(dx_packed, dx_plain, atol=2e-5)


@pytest.mark.parametrize(("scale", "factor", "out"), [(2, 2, 4), (4, 1, 2), (1, 2, 2)])
def test_projecting_commutes_with_upsampling(scale, factor, out):
    kernel = jnp.asarray(np.random.default_rng(1).standard_normal((X.shape[-1], 3)), jnp.float32)
    weights = np.cos(np.arange(2 * 6 * 8 * scale**2 * 3, dtype=np.float32))

    def packed(x):
        return pack(pack(x, {8: factor}), {8 * scale: out})

    def fused(x, kernel):
        return unpack(project_and_upsample(packed(x), kernel, scale))

    def separate(x, kernel):
        return unpack(upsample(packed(x), scale)) @ kernel

    def weigh(*operands, f):
        maps = f(*operands)
        return maps.ravel() @ weights, maps

    actual, expected = (
        jax.jit(jax.value_and_grad(partial(weigh, f=f), (0, 1), has_aux=True))(X, kernel)
        for f in (fused, separate)
    )
    np.testing.assert_allclose(actual[0][1], expected[0][1], atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("train", [pytest.param(False, marks=pytest.mark.slow), True])
def test_head_of_packed_branches(train):
    """Compares separate convolutions of the branches with that of their concatenation."""
    rng = np.random.default_rng(2)
    factors, shapes = {16: 4, 8: 2, 4: 1}, [(2, 8, 16, 6), (2, 4, 8, 10), (2, 2, 4, 7)]
    branches = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    head = SegmentationHead(5)
    variables = host_variables(head, branches)
    packed_variables = jax.eval_shape(lambda: head.init(KEY, [pack(x, factors) for x in branches]))
    assert jax.tree.map(jnp.shape, packed_variables) == jax.tree.map(jnp.shape, variables)

    def run(params, branches, factors):
        y, _ = head.apply(
            variables | {"params": params},
            [pack(x, factors) for x in branches],
            train,
            mutable=["batch_stats"],
        )
        return jnp.sin(y).sum(), y

    def value_and_gradients(factors):
        function = jax.value_and_grad(partial(run, factors=factors), (0, 1), has_aux=True)
        return jax.jit(function)(variables["params"], branches)

    (_, packed), gradients = value_and_gradients(factors)
    (_, plain), expected = value_and_gradients({})
    np.testing.assert_allclose(packed, plain, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    "statistics", [pytest.param("two_pass", marks=pytest.mark.slow), "one_pass"]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm(statistics, groups):
    norm = BatchNorm(statistics=statistics, groups=groups)
    variables = host_variables(norm, X)

    def f(x, factor):
        y, updates = norm.apply(variables, pack(x, {8: factor}), True, mutable=["batch_stats"])
        return jnp.sin(unpack(y)).sum(), updates

    compiled = jax.jit(jax.value_and_grad(f, has_aux=True), static_argnums=1)
    plain, packed = (compiled(X, factor) for factor in (1, 4))
    for a, b in zip(jax.tree.leaves(packed), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_one_pass_equals_two():
    """Covers a running mean that is off by several standard deviations."""
    x = X + 7
    for momentum in (0.99, 0.0):
        results = []
        for statistics in ("one_pass", "two_pass"):
            norm = BatchNorm(momentum=momentum, statistics=statistics)
            variables = host_variables(norm, x)
            y, updates = apply_training(norm, variables, x)
            results.append((y, updates))
        for a, b in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_groups_are_normalized_separately():
    norm = BatchNorm(momentum=0.0, groups=2)
    variables = host_variables(norm, X)
    y, updates = apply_training(norm, variables, X)
    for n in (0, 1):
        single, _ = apply_training(BatchNorm(), variables, np.asarray(X)[n : n + 1])
        np.testing.assert_allclose(y[n : n + 1], single, atol=1e-5)
    means = np.asarray(X).mean((1, 2))
    np.testing.assert_allclose(updates["batch_stats"]["mean"], means.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="groups must divide"):
        BatchNorm(groups=3).apply(variables, X, True, mutable=["batch_stats"])


def test_groups_on_as_many_devices_need_no_collective():
    """Holds forward and backward; running statistics and parameters still need sums."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def count_all_reduces(groups):
        norm = BatchNorm(groups=groups)
        variables = host_variables(norm, X)

        def f(x):
            y, pull = jax.vjp(
                lambda x: norm.apply(variables, x, True, mutable=["batch_stats"])[0], x
            )
            return y, pull(jnp.cos(y))[0]

        step = jax.jit(f, in_shardings=split, out_shardings=(split, split))
        return step.lower(X).compile().as_text().count(" all-reduce(")

    assert count_all_reduces(1) > 0
    assert count_all_reduces(2) == 0


def test_groups_of_several_devices():
    """With two devices per group nothing is gathered, and results equal those of one device."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.random.normal(KEY, (8, 4, 6, 8))
    norm = BatchNorm(groups=2)
    variables = norm.init(KEY, x)

    def f(x):
        y, pull = jax.vjp(lambda x: norm.apply(variables, x, True, mutable=["batch_stats"])[0], x)
        return y, pull(jnp.cos(y))[0]

    step = jax.jit(f, in_shardings=split, out_shardings=(split, split)).lower(x).compile()
    text = step.as_text()
    assert " all-reduce(" in text
    assert not re.search(r" (all-gather|all-to-all|collective-permute)", text)
    for sharded, single in zip(step(jax.device_put(x, split)), jax.jit(f)(x), strict=True):
        np.testing.assert_allclose(sharded, single, atol=1e-5)


def test_pack_factors():
    assert pack_factors(VARIANTS["w18_small_v2"].widths) == (4, 2, 1, 1)
    assert pack_factors(VARIANTS["w32"].widths) == (4, 2, 1, 1)
    assert pack_factors(VARIANTS["w48"].widths) == (2, 1, 1, 1)
    assert pack_factors(VARIANTS["w48"].widths, 0) == (1, 1, 1, 1)
    assert pack_factors((3, 200)) == (2, 1)
    assert LANES == 128
