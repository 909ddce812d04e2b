"""Costs of programs that are compiled for absent TPUs."""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.plan import costs, targets
from gsto_jax.plan.hlo import HLOProgram
from gsto_jax.plan.targets import compile_target
from tests.gsto_jax.plan.small_programs import plan_function, scanned, total, unrolled


def test_missing_compilers(monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="libtpu"):
        compile_target("v5e:2x2")

    def raise_module_not_found(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(targets, "find_spec", raise_module_not_found)
    with pytest.raises(UserError, match="cuda"):
        compile_target("h100")


@pytest.fixture
def one_tpu(libtpu):
    target = compile_target("v5e:2x2")
    return replace(target, mesh=make_mesh(list(target.mesh.devices.flat[:1])))


@pytest.mark.slow
def test_tpu_loops_cost_the_same_as_unrolled(one_tpu):
    shapes = ((2048, 1024), (1024, 1024))
    loop, flat = (plan_function(f, *shapes, chips=one_tpu) for f in (scanned, unrolled))
    assert loop.flops == pytest.approx(flat.flops, rel=0.01)
    # XLA estimates both alike, but a loop copies its state and an unrolled one need not.
    assert loop.cost.xla_cycles == pytest.approx(flat.cost.xla_cycles, rel=0.15)
    assert flat.bytes_accessed < loop.bytes_accessed < 3 * flat.bytes_accessed
    assert loop.bytes_accessed == loop.cost.bytes_accessed and flat.bytes_accessed == pytest.approx(
        flat.cost.bytes_accessed, rel=0.1
    )


@pytest.mark.slow
def test_bytes_match_xla_for_tpus(one_tpu):
    """Weights are loaded by asynchronous slices."""

    def layers(x, *weights):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x

    whole = NamedSharding(one_tpu.mesh, PartitionSpec())
    shapes = [jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=whole)] * 9
    compiled = jax.jit(layers).trace(*shapes).lower(lowering_platforms=("tpu",)).compile()
    program = HLOProgram.parse(compiled.as_text())
    assert any(x.opcode == "slice-start" for x, _ in program.executions())
    accessed = total(costs.bytes_accessed, program)
    assert accessed == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.001)


@pytest.mark.slow
def test_compilers_leave_no_environment_to_child_processes(libtpu):
    before = dict(os.environ)
    compile_target("v5e:4x4*2")
    assert dict(os.environ) == before


@pytest.mark.slow
def test_tpu_kernel(one_tpu):
    from jax.experimental import pallas as pl

    def halve(x, y):
        y[...] = jnp.exp(x[...])

    block = pl.BlockSpec((64, 1024), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    kernel = pl.pallas_call(halve, grid=(16,), in_specs=[block], out_specs=block, out_shape=shape)
    once = plan_function(kernel, (1024, 1024), chips=one_tpu)
    assert (once.num_kernel_calls, once.unscheduled_calls) == (1, 0)
    assert once.bytes_accessed == 2 * 4 * 2**20
    assert once.cost.kernel_cycles == pytest.approx(
        2 * 4 * 2**20 / (819 / 1.5)
    )  # memory is the limit
    looped = plan_function(
        lambda x: lax.fori_loop(0, 5, lambda _, x: kernel(x), x), shape.shape, chips=one_tpu
    )
    assert (looped.num_kernel_calls, looped.unscheduled_calls) == (5, 0)
    assert looped.bytes_accessed > 5 * once.bytes_accessed
