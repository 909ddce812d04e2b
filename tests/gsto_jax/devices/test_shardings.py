"""Sharded images and train states give the same result as one device."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gsto_jax import UserError
from gsto_jax.devices.mesh import (
    all_gather,
    check_batch_size,
    make_mesh,
    on_mesh,
    parameter_spec,
    put_batch,
    replicated_sharding,
)
from gsto_jax.gate import NormParameters, gated_maps
from gsto_jax.layers import Conv, resize
from gsto_jax.losses.upsampled import true_log_probability
from gsto_jax.ops.spatial_sharding import shard_height
from gsto_jax.runs.checkpoint import Checkpoints, read_state
from gsto_jax.segmentation.inference import SegmentationPrograms
from gsto_jax.segmentation.task import EVAL_INPUTS
from gsto_jax.training.loop import CompiledTrainStep
from gsto_jax.training.task import initial_state
from tests.gsto_jax.small_task import batches, make_task


def compiled_on(mesh, function):
    """`function` of arrays that every device holds."""
    return jax.jit(on_mesh(function, mesh), in_shardings=replicated_sharding(mesh))


def test_parameter_spec():
    big = 4096
    assert parameter_spec((3, 3, 64, 128), 4) == PartitionSpec(None, None, None, "data")
    assert parameter_spec((3, 3, 128, 66), 4) == PartitionSpec(None, None, "data")
    assert parameter_spec((3, 3, 64, 64), 4) == PartitionSpec(None, None, None, "data")
    assert parameter_spec((4 * big, 3), 4) == PartitionSpec("data")
    assert parameter_spec((big - 1,), 1) == PartitionSpec()
    assert parameter_spec((3, 3, 33, 33), 4) == PartitionSpec()  # none divides
    assert parameter_spec((64, 63), 4) == PartitionSpec()  # small
    assert parameter_spec((), 4) == PartitionSpec()


def test_spatial_mesh():
    mesh = make_mesh(spatial_shards=2)
    assert dict(mesh.shape) == {"data": 2, "space": 2}
    assert [[d.id for d in row] for row in mesh.devices] == [[0, 1], [2, 3]]
    check_batch_size(6, mesh, "train.batch_size")
    with pytest.raises(UserError, match="multiple of 2, the number of groups of 2 devices"):
        check_batch_size(5, mesh, "train.batch_size")
    with pytest.raises(UserError, match=r"parallel\.spatial_shards .* got 3"):
        make_mesh(spatial_shards=3)


def test_no_sharding_without_mesh():
    x = jnp.ones((1, 4, 4, 1))
    assert shard_height(x) is x
    with jax.sharding.use_abstract_mesh(make_mesh().abstract_mesh):
        assert shard_height(x) is x


@pytest.mark.parametrize(("rows", "stride"), [(16, 1), (9, 2)])
def test_convolution_and_resize_across_spatial_shards(rows, stride):
    """Heights that do not divide too."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, rows, 6, 4)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 4, 5)).astype(np.float32)

    def f(x):
        conv = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = conv(shard_height(x), kernel, (stride, stride), ((1, 1), (1, 1)))
        return resize(jnp.tanh(y), (rows, 6)).sum(3)

    def value_and_gradient(x):
        return f(x), jax.grad(lambda x: (f(x) ** 2).sum())(x)

    expected = jax.jit(value_and_gradient)(x)
    compiled = compiled_on(make_mesh(spatial_shards=4), value_and_gradient).lower(x).compile()
    assert "collective-permute" in compiled.as_text()
    for actual, reference in zip(compiled(x), expected, strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "stride"), [(2, 1), (4, 2)])
def test_few_rows_are_not_sharded(rows, stride):
    """XLA doubles a 3x3 convolution whose input or output has one row per device."""
    x = np.random.default_rng(0).normal(size=(4, rows, 3, 8)).astype(np.float32)
    conv = Conv(8, 3, stride)
    variables = conv.init(jax.random.key(0), x)
    expected = conv.apply(variables, x)
    result = compiled_on(make_mesh(spatial_shards=2), partial(conv.apply, variables))(x)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
def test_sharded_kernels_are_gathered_before_convolution(axis):
    """XLA doubles such a convolution, or its gradient, where it meets a part of the kernel."""
    mesh = make_mesh(spatial_shards=2)
    split = NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
    conv = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(4, 4, 6, 32)), rng.normal(size=(3, 3, 32, 32))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)

    def f(x, kernel):
        return conv(shard_height(x), kernel)

    def value_and_gradient(x, kernel):
        kernel = all_gather(kernel)
        change = jax.grad(lambda *args: (f(*args) ** 2).sum(), (0, 1))(x, kernel)
        return f(x, kernel), *change

    expected = jax.jit(value_and_gradient)(x, kernel)
    by_parts = jax.jit(on_mesh(value_and_gradient, mesh), out_shardings=(None, None, split))
    result = by_parts(x, jax.device_put(kernel, split))
    for actual, reference in zip(result, expected, strict=True):
        np.testing.assert_allclose(
            actual, reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max()
        )


@pytest.mark.parametrize("name", ["pallas_tpu", pytest.param("pallas_gpu", marks=pytest.mark.slow)])
def test_gate_kernels_with_spatial_shards(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 16)).astype(np.float32)
    kernel = rng.normal(size=(16, 2)).astype(np.float32)
    norm = NormParameters(np.float32([1, 2]), np.float32([0.1, 0.2]), 1e-5)

    def f(x, **kwargs):
        gated = gated_maps(x, kernel, norm, relu=True, **kwargs)
        return jnp.concatenate(gated.maps, -1), gated.mean, gated.var

    def all_of_it(x, **kwargs):
        change = jax.grad(lambda x: (f(x, **kwargs)[0] ** 2).sum())(x)
        return *f(x, **kwargs), change

    expected = jax.jit(partial(all_of_it, implementation="xla"))(x)
    by_kernel = partial(all_of_it, implementation=name, interpret=True)
    result = compiled_on(make_mesh(spatial_shards=2), by_kernel)(x)
    for actual, reference in zip(result, expected, strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="3 rows do not divide over the 2 devices of 'space'"):
        compiled_on(make_mesh(spatial_shards=2), by_kernel).trace(x[:, :3])


def test_loss_kernel_needs_unsharded_images():
    logits, classes = jnp.zeros((2, 32, 32, 4)), jnp.zeros((2, 128, 128), jnp.uint8)
    by_kernel = partial(true_log_probability, implementation="pallas_tpu")
    with pytest.raises(UserError, match="takes whole images"):
        compiled_on(make_mesh(spatial_shards=2), by_kernel).trace(logits, classes)
    left = compiled_on(make_mesh(spatial_shards=2), true_log_probability).trace(logits, classes)
    assert "pallas_call" not in str(left.jaxpr)


def task_from_config(space=1, sharded=False, **model):
    task = make_task(3, **{"variant": "mini"} | model)
    parallel = replace(task.config.parallel, spatial_shards=space, shard_parameters=sharded)
    return replace(task, config=replace(task.config, parallel=parallel))


def a_batch(rows):
    batch = next(batches(4, 96))
    cut = {k: batch[k][:, :rows] for k in ("image", "label")}
    size = np.minimum(batch["size"], (rows, 90))
    return batch | cut | {"size": size.astype(np.int32)}


def an_evaluation(task, mesh, batch):
    """Counts, predictions and maps of the initial state."""
    inputs = put_batch({k: batch[k] for k in EVAL_INPUTS}, mesh)
    eval_step = SegmentationPrograms.for_task(task, mesh).eval_step
    return eval_step(initial_state(task, mesh).variables, inputs)


def a_step(task, mesh, batch):
    """The state after a step, whose momentum holds the gradients, and losses."""
    inputs = put_batch({k: batch[k] for k in task.train_inputs}, mesh)
    return CompiledTrainStep(task, mesh)(initial_state(task, mesh), inputs)


def assert_close(result, expected, rtol, share):
    """Up to a share of each number, or of the largest in its array or of 1."""
    paths = jax.tree.leaves_with_path(expected)
    for (path, reference), actual in zip(paths, jax.tree.leaves(result), strict=True):
        name = jax.tree_util.keystr(path)
        atol = share * max(np.abs(reference).max(), 1)
        np.testing.assert_allclose(actual, reference, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.long
def test_spatial_sharding_equals_one_device(x64):
    """In float64, so that a wrong row at a seam cannot hide behind rounding; 72 rows are uneven."""
    batch, mesh = a_batch(72), make_mesh(spatial_shards=4)
    task = task_from_config(4, dtype="float64")
    whole, one = task_from_config(dtype="float64"), make_mesh(jax.devices()[:1])
    assert_close(a_step(task, mesh, batch), a_step(whole, one, batch), 1e-6, 1e-9)
    *counted, expected = an_evaluation(whole, one, batch)
    *counts, maps = an_evaluation(task, mesh, batch)
    assert_close(maps, expected, 1e-6, 1e-9)
    jax.tree.map(np.testing.assert_array_equal, counts, counted)


@pytest.mark.slow
def test_spatial_and_parameter_sharding_equal_one_device(x64):
    """The state is split over the two devices that see the same rows."""
    batch, one = a_batch(72), task_from_config(dtype="float64")
    both = task_from_config(2, sharded=True, dtype="float64")
    expected = a_step(one, make_mesh(jax.devices()[:1]), batch)
    result = a_step(both, make_mesh(spatial_shards=2), batch)
    assert_close(result, expected, 1e-6, 1e-9)


@pytest.mark.long
def test_parameter_sharding_equals_replication(tmp_path):
    mesh, batch = make_mesh(), next(batches())
    split, together = task_from_config(sharded=True), task_from_config()
    inputs = put_batch({k: batch[k] for k in split.train_inputs}, mesh)
    state = initial_state(split, mesh)
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.spec == parameter_spec(leaf.shape, 4)
    shard_sizes = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)]
    assert sum(shard_sizes) < 0.45 * sum(x.nbytes for x in jax.tree.leaves(state))
    new, scalars = CompiledTrainStep(split, mesh)(state, inputs)
    for leaf in jax.tree.leaves(new):
        assert leaf.sharding.spec == parameter_spec(leaf.shape, 4)
    expected, expected_scalars = CompiledTrainStep(together, mesh)(
        initial_state(together, mesh), inputs
    )
    # Of float32: a change of 1e-7 in the images moves some gradients of this network by 6e-4.
    assert_close((new, scalars), (expected, expected_scalars), 1e-3, 1e-5)
    with Checkpoints(tmp_path) as checkpoints:
        folder = checkpoints.save(new, {"config": {}})
    for task, devices in ((split, 2), (together, 1)):
        read = read_state(folder, task, make_mesh(jax.devices()[:devices]))
        jax.tree.map(np.testing.assert_array_equal, read, new)
        parts = devices if task is split else 1
        for leaf in jax.tree.leaves(read):
            assert leaf.sharding.spec == parameter_spec(leaf.shape, parts)
