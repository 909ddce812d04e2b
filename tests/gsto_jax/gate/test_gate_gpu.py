"""The gate by kernels for GPUs against XLA, by an interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.gate import NormParameters, gated_maps, gpu
from gsto_jax.ops.packing import Packed
from tests.gsto_jax.gate_operands import EPSILON, FORMS, close, operands, run

BY = (1, "pallas_gpu")
TRAINING = FORMS["released, training"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(2, 4, 8, 18, 3), (1, 3, 5, 7, 1), (1, 1, 3, 300, 2)])
def test_kernels_equal_xla(shape, form):
    """Rows and channels fill blocks or not."""
    args = operands(*shape)
    if form == "affine":
        args = (*args[:2], None, None, args[4])
    close(run(args, *BY, **FORMS[form]), run(args, **FORMS[form]))


@pytest.mark.parametrize("form", ["released, training", "affine"])
def test_many_blocks_of_several_tiles(form, monkeypatch):
    """Each program leaves its sums, the last one's reaching beyond the map."""
    monkeypatch.setattr(gpu, "_VECTOR", 4)
    monkeypatch.setattr(gpu, "_ROWS", 96)
    args = operands(1, 13, 23, 6, 2)
    rows = args[0].reshape(-1, 6)
    back = gpu._tiling(rows, 1, 8, several=True)
    assert (back.rows, back.tiles, back.steps) == (32, 3, 4)
    assert gpu._tiling(rows, 2).steps == 10
    close(run(args, *BY, **FORMS[form]), run(args, **FORMS[form]))


def test_wide_rows_get_more_warps_not_more_numbers_a_thread():
    narrow, wide = (gpu._tiling(jnp.zeros((4096, c)), 1) for c in (18, 2000))
    assert (narrow.rows, narrow.lanes, narrow.warps) == (16, 32, 4)
    assert (wide.rows, wide.lanes, wide.warps) == (1, 2048, 16)


def test_bfloat16_accumulates_in_float32():
    """Against float32 arithmetic on the same, rounded map: only results are rounded."""
    args = operands(2, 6, 8, 48, 3, jnp.bfloat16)
    rounded = np.asarray(args[1].astype(jnp.bfloat16), np.float32)
    cotangents = np.asarray(args[4].astype(jnp.bfloat16), np.float32)
    args = (args[0], rounded, *args[2:4], cotangents)
    exact = run((args[0].astype(jnp.float32), *args[1:]), **TRAINING)
    ours = run(args, *BY, **TRAINING)
    assert ours[1][0][0].dtype == jnp.bfloat16 and ours[0][0].dtype == jnp.bfloat16
    close((ours[0][0], ours[1][:2]), (exact[0][0], exact[1][:2]), 2**-8)
    close((ours[0][1:], ours[1][2:]), (exact[0][1:], exact[1][2:]), 1e-5)


def test_logits_far_from_zero_keep_their_variance():
    features, _kernel, scale, bias, cotangents = operands(2, 16, 16, 1, 1)
    args = (features + 1e4, np.ones((1, 1), np.float32), scale, bias, cotangents)
    _, (_, _, mean, var) = run(args, *BY, **TRAINING)
    np.testing.assert_allclose(mean, 1e4 + np.asarray(features).mean(), rtol=1e-6)
    np.testing.assert_allclose(var, np.asarray(features).var(), rtol=1e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="needs four devices")
def test_each_device_runs_the_kernel_on_its_part():
    """Statistics and sums are those of the whole batch."""
    args = operands(8, 4, 6, 5, 2)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    *inputs, cotangents = args

    def f(features, kernel, scale, bias):
        norm = NormParameters(scale, bias, EPSILON)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            found = gated_maps(
                features, kernel, norm, relu=True, implementation="pallas_gpu", interpret=True
            )
        total = sum((x * c).sum() for x, c in zip(found.maps, cotangents, strict=True))
        return total, (list(found.maps), found.gates, found.mean, found.var)

    step = jax.jit(jax.grad(f, (0, 1, 2, 3), has_aux=True), in_shardings=(split, None, None, None))
    compiled = step.lower(*inputs).compile()
    assert "all-reduce" in compiled.as_text()
    found = compiled(jax.device_put(inputs[0], split), *inputs[1:])
    close(found, run(args, **TRAINING))


def kernels_by_platform(implementation, platform, epsilon=None, relu=False):
    """How many kernels a program with gradients runs, by what lowers them."""
    features, kernel, scale, bias, _ = operands(8, 4, 8, 18, 2)

    def f(features, kernel, scale, bias):
        norm = NormParameters(scale, bias, epsilon)
        maps = gated_maps(features, kernel, norm, relu=relu, implementation=implementation).maps
        return sum(jnp.square(x).sum() for x in maps)

    # From 0.11 on, JAX wants to know which GPU.
    kinds = {"cuda": ("NVIDIA H100", None, "gpu")}
    device = jax.sharding.AbstractDevice(*kinds[platform]) if platform in kinds else None
    with jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
    ):
        traced = jax.jit(jax.grad(f, (0, 1, 2, 3))).trace(features, kernel, scale, bias)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    return {name: text.count(name) for name in ("triton", "tpu_custom_call")}


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_which_one_runs():
    assert kernels_by_platform("pallas_gpu", "cuda") == {"triton": 2, "tpu_custom_call": 0}
    assert kernels_by_platform("pallas_gpu", "cuda", **TRAINING)["triton"] == 4
    assert kernels_by_platform("xla", "cuda")["triton"] == 0
    with pytest.raises(ValueError, match="tpu"):
        kernels_by_platform("pallas_gpu", "tpu")


def test_left_to_choose_a_gpu_gets_xla():
    assert kernels_by_platform(None, "cuda") == {"triton": 0, "tpu_custom_call": 0}
    assert kernels_by_platform(None, "tpu")["tpu_custom_call"] > 0


def test_a_named_one_that_cannot_run_says_why(monkeypatch):
    features, kernel, *_ = operands(1, 2, 2, 4, 1)

    def refused(reason, features=features, kernel=kernel, **kwargs):
        with pytest.raises(ValueError, match=f"'pallas_gpu' cannot run here: {reason}"):
            gated_maps(features, kernel, implementation="pallas_gpu", **kwargs)

    refused("it takes bfloat16 and float32, not float16", features.astype(jnp.float16))
    refused(
        "it takes maps as they are, not packed by 2",
        features=Packed(features, 2),
        kernel=kernel[:2],
    )
    refused("it takes up to 8 gates, not 9", kernel=jnp.ones((4, 9)))
    with (
        jax.default_device(jax.devices("cpu")[0]),
        pytest.raises(ValueError, match="Only interpret mode is supported on CPU"),
    ):
        jax.jit(lambda x: gated_maps(x, kernel, implementation="pallas_gpu").maps)(features)
    monkeypatch.setattr(gpu, "triton", None)
    refused(f"JAX {jax.__version__} has no Triton back end")
