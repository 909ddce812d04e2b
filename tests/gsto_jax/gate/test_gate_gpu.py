"""Gates by GPU kernels in interpret mode, compared with XLA."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax.experimental.pallas import mosaic_gpu as plgpu

from gsto_jax.gate import NormParameters, gated_maps, gpu, gpu_blocks, gpu_tiling
from gsto_jax.gate.kernels import GateSpec
from gsto_jax.ops.packing import Packed
from tests.gsto_jax.gate_operands import CASES, EPSILON, assert_close, operands, run

GPU = (1, "pallas_gpu")
TRAINING = CASES["released, training"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", [(2, 4, 8, 18, 3), (1, 3, 5, 7, 1), (1, 1, 9, 96, 2)])
def test_kernels_equal_xla(shape, case):
    """Covers full and partial blocks, and widths of which a copy takes rows or only blocks."""
    args = operands(*shape)
    if case == "affine":
        args = (*args[:2], None, None, args[4])
    assert_close(run(args, *GPU, **CASES[case]), run(args, **CASES[case]))


@pytest.mark.parametrize("case", ["released, training", "affine"])
def test_programs_of_several_blocks(case, monkeypatch):
    """Each program writes its partial sums; the last block reaches beyond the map."""
    monkeypatch.setattr(gpu, "_ROWS", 96)
    monkeypatch.setattr(gpu, "_BACK_ELEMENTS", 8)
    args = operands(1, 17, 23, 8, 2)
    tiling = gpu._tiling(args[0], 4, 8).with_steps(3)
    assert (tiling.rows, tiling.steps, tiling.programs) == (128, 2, 2)
    assert_close(run(args, *GPU, **CASES[case]), run(args, **CASES[case]))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="interprets on a CPU")
def test_copies_and_barriers(monkeypatch):
    """By the interpreter of Mosaic GPU, which knows neither layouts nor reshaped buffers."""
    interpreted = partial(plgpu.kernel, interpret=InterpretGPUParams())
    monkeypatch.setattr(gpu_blocks.plgpu, "kernel", interpreted)
    monkeypatch.setattr(gpu_blocks.plgpu, "layout_cast", lambda x, _: x)
    monkeypatch.setattr(gpu, "_ROWS", 1024)
    features, kernel, scale, bias, cotangents = operands(1, 16, 33, 8, 2)
    coefficients = jnp.stack([scale, bias])
    compiled, plain = GateSpec(2, 1, False, False), GateSpec(2, 1, False, True)
    for name, args in {
        "statistics": (),
        "apply": (coefficients,),
        "backward": (coefficients, *cotangents),
    }.items():
        run_pass = partial(getattr(gpu.PASSES, name), features, kernel, *args)
        assert_close(run_pass(spec=compiled), run_pass(spec=plain), 1e-6)


WIDTHS = [width << branch for width in (18, 30, 32, 40, 44, 48, 64) for branch in range(4)]


@pytest.mark.parametrize("channels", [*WIDTHS, 3, 5, 6, 7, 62, 63])
def test_blocks_fit_into_threads(channels):
    """All elements of a block lie in the registers of its threads, up to 64 in each."""
    assert not gpu_tiling.unsupported_reason(channels, 6, jnp.bfloat16)
    tiling = gpu_tiling.make_tiling(1 << 18, channels, 6, jnp.bfloat16, 32)
    layout, shape = gpu_blocks._layout(channels).to_mgpu(), (tiling.rows, channels)
    elements = math.prod(layout.registers_shape(shape)) * layout.vector_length
    assert elements * 128 == math.prod(shape) and elements <= 64
    assert (1 << 18) % tiling.rows == 0


def test_bfloat16_accumulates_in_float32():
    """Against float32 arithmetic on the same, rounded map: only results are rounded."""
    args = operands(2, 6, 8, 48, 3, jnp.bfloat16)
    rounded = np.asarray(args[1].astype(jnp.bfloat16), np.float32)
    cotangents = np.asarray(args[4].astype(jnp.bfloat16), np.float32)
    args = (args[0], rounded, *args[2:4], cotangents)
    exact = run((args[0].astype(jnp.float32), *args[1:]), **TRAINING)
    actual = run(args, *GPU, **TRAINING)
    assert actual[1][0][0].dtype == jnp.bfloat16 and actual[0][0].dtype == jnp.bfloat16
    assert_close((actual[0][0], actual[1][:2]), (exact[0][0], exact[1][:2]), 2**-8)
    assert_close((actual[0][1:], actual[1][2:]), (exact[0][1:], exact[1][2:]), 1e-5)


def test_logits_far_from_zero_keep_their_variance():
    features, _kernel, scale, bias, cotangents = operands(2, 16, 16, 3, 1)
    args = (features + 1e4, np.eye(3, 1, dtype=np.float32), scale, bias, cotangents)
    _, (_, _, mean, var) = run(args, *GPU, **TRAINING)
    logits = np.asarray(features)[..., 0]
    np.testing.assert_allclose(mean, 1e4 + logits.mean(), rtol=1e-6)
    np.testing.assert_allclose(var, logits.var(), rtol=1e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="needs four devices")
def test_each_device_runs_the_kernel_on_its_shard():
    """Statistics and sums are those of the whole batch."""
    args = operands(8, 4, 6, 5, 2)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    *inputs, cotangents = args

    def f(features, kernel, scale, bias):
        norm = NormParameters(scale, bias, EPSILON)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            gated = gated_maps(
                features, kernel, norm, relu=True, implementation="pallas_gpu", interpret=True
            )
        total = sum((x * c).sum() for x, c in zip(gated.maps, cotangents, strict=True))
        return total, (list(gated.maps), gated.gates, gated.mean, gated.var)

    step = jax.jit(jax.grad(f, (0, 1, 2, 3), has_aux=True), in_shardings=(split, None, None, None))
    compiled = step.lower(*inputs).compile()
    assert "all-reduce" in compiled.as_text()
    gated = compiled(jax.device_put(inputs[0], split), *inputs[1:])
    assert_close(gated, run(args, **TRAINING))


def count_kernels(implementation, platform, epsilon=None, relu=False):
    """Returns the number of kernels in a program with gradients, by custom call."""
    features, kernel, scale, bias, _ = operands(8, 4, 8, 18, 2)

    def f(features, kernel, scale, bias):
        norm = NormParameters(scale, bias, epsilon)
        maps = gated_maps(features, kernel, norm, relu=relu, implementation=implementation).maps
        return sum(jnp.square(x).sum() for x in maps)

    # JAX 0.11 and later need the GPU model.
    kinds = {"cuda": ("NVIDIA H100", None, "gpu")}
    device = jax.sharding.AbstractDevice(*kinds[platform]) if platform in kinds else None
    with jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
    ):
        traced = jax.jit(jax.grad(f, (0, 1, 2, 3))).trace(features, kernel, scale, bias)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    return {name: text.count(f"@{name}") for name in ("mosaic_gpu", "tpu_custom_call")}


def test_chosen_implementation():
    assert count_kernels("pallas_gpu", "cuda") == {"mosaic_gpu": 2, "tpu_custom_call": 0}
    assert count_kernels("pallas_gpu", "cuda", **TRAINING)["mosaic_gpu"] == 4
    assert count_kernels("xla", "cuda")["mosaic_gpu"] == 0
    with pytest.raises((ValueError, AssertionError)):
        count_kernels("pallas_gpu", "tpu")


def test_gpu_default_is_xla():
    assert count_kernels(None, "cuda") == {"mosaic_gpu": 0, "tpu_custom_call": 0}
    assert count_kernels(None, "tpu")["tpu_custom_call"] > 0


def test_unavailable_implementation():
    features, kernel, *_ = operands(1, 2, 2, 4, 1)

    def check_reason(reason, features=features, kernel=kernel, **kwargs):
        with pytest.raises(ValueError, match=f"'pallas_gpu' cannot run here: {reason}"):
            gated_maps(features, kernel, implementation="pallas_gpu", **kwargs)

    check_reason("it takes bfloat16 and float32, not float16", features.astype(jnp.float16))
    check_reason(
        "it takes unpacked maps",
        features=Packed(features, 2),
        kernel=kernel[:2],
    )
    check_reason("it takes up to 8 gates", kernel=jnp.ones((4, 9)))
    for channels, gates, reason in (
        (2, 1, "it takes at least 3 channels; got 2"),
        (300, 1, "it takes up to 64 channels, .* divides; 300 leave 150 for each thread"),
        (992, 6, "blocks of 8 maps with 992 channels exceed the shared memory"),
    ):
        check_reason(reason, jnp.zeros((1, 2, 2, channels)), jnp.zeros((channels, gates)))
    with (
        jax.default_device(jax.devices("cpu")[0]),
        pytest.raises(ValueError, match="Only interpret mode is supported on CPU"),
    ):
        jax.jit(lambda x: gated_maps(x, kernel, implementation="pallas_gpu").maps)(features)
