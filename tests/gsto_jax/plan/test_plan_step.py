"""Planned steps of tasks, memory that is too small, and the largest batch."""

import math

import jax
import pytest

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.plan import compile as compiling
from gsto_jax.plan.compile import OutOfMemory, largest_batch, plan_step
from gsto_jax.plan.step_cost import peak_memory
from gsto_jax.plan.targets import CompileTarget
from tests.gsto_jax.plan.small_plans import make_plan
from tests.gsto_jax.plan.small_programs import lower, unrolled
from tests.gsto_jax.pose_runs import pose_task
from tests.gsto_jax.small_task import FAST, make_task


@pytest.mark.parametrize(
    ("step", "model", "layers"),
    [
        pytest.param("train", FAST, ("stage1_block0", "stage3_block0"), marks=pytest.mark.slow),
        ("eval", {"variant": "mini"}, ("stem1", "stage4_module0", "head")),
    ],
)
def test_segmentation_steps(step, model, layers):
    """Plans steps for CPUs, where XLA estimates no cycles."""
    chips = CompileTarget(make_mesh(jax.devices()[:2]), memory=2**34)
    plan = plan_step(make_task(4, **model), chips, 4, (32, 32), step)
    assert (plan.batch_size, plan.step) == (4 // chips.mesh.size, step)
    assert plan.flops > 1e6 and plan.bytes_accessed > 1e6 and plan.peak_memory > 1e5
    assert ("all-reduce" in plan.collectives) == (chips.mesh.size > 1)
    names = {layer.name for layer in plan.layers}
    assert {*layers} <= names
    assert (f"{layers[-1]} backward" in names) == (step == "train")
    assert sum(x.cost.bytes_accessed for x in plan.layers) == plan.cost.bytes_accessed
    assert (plan.queued_bytes > 0) == (step == "train")


def test_out_of_memory(monkeypatch):
    """Some compilers do not raise."""
    small = lower(unrolled, (64, 32), (32, 32))
    monkeypatch.setattr(compiling, "_lower", lambda *args: small)
    chips = CompileTarget(make_mesh(jax.devices()[:1]), memory=1000)
    with pytest.raises(OutOfMemory, match="train step") as error:
        plan_step(make_task(4, variant="mini"), chips, 4, (32, 32))
    ahead = 4 * 4 * 32 * 32 * (3 + 1)  # four batches of four images and label maps
    required = error.value.required - peak_memory(small.compile())
    assert ahead <= required < 1.05 * ahead  # with their sizes and seeds


@pytest.mark.parametrize("step", [pytest.param("train", marks=pytest.mark.slow), "eval"])
def test_pose_steps(step):
    plan = plan_step(
        pose_task(4, gfm=False), CompileTarget(make_mesh(jax.devices()[:1])), 2, (64, 48), step
    )
    assert plan.flops > 1e6 and plan.batch_size == 2


@pytest.mark.parametrize(
    ("message", "used"),
    [
        (
            "total memory required for HLO temporaries (29.85G) exceeds available HBM (15.75G).",
            29.85,
        ),
        ("Ran out of memory in memory space hbm. Used 18.50G of 15.75G hbm.", 18.5),
        ("Used 512.00M of 256.00M hbm", 0.5),
        ("something else", None),
    ],
)
def test_required_memory(message, used):
    required = compiling._required_memory(message)
    assert required == used if used is None else required == pytest.approx(used * 2**30)


@pytest.mark.parametrize("fits", range(12))
@pytest.mark.parametrize("says", [True, False])
def test_largest_batch(fits, says):
    """Needs few compilations if memory is linear in the batch."""
    tried, memory = [], 100 + 10 * fits + 5

    def attempt(units):
        tried.append(units)
        used = 100 + 10 * units
        if used > memory:
            raise OutOfMemory("full", used if says else None)
        return make_plan(batch_size=units, peak_memory=used)

    full = OutOfMemory("full", 100 + 120 if says else None)
    plan = largest_batch(attempt, full, units=12, state_bytes=100, memory=memory)
    assert (plan.batch_size if plan else 0) == fits
    assert len(tried) <= (2 if says else 4)
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("exponent", [0.5, 1.5, 3])
def test_largest_batch_for_nonlinear_memory(exponent):
    """Needs a few more compilations for other growth."""
    for fits in (1, 7, 100, 499):
        tried = []

        def used(units):
            return units**exponent

        def attempt(units, fits=fits, tried=tried):
            tried.append(units)
            if units > fits:
                raise OutOfMemory("full", used(units))
            return make_plan(batch_size=units, peak_memory=used(units))

        error = OutOfMemory("full", used(500))
        memory = used(fits) + 1e-3
        plan = largest_batch(attempt, error, units=500, state_bytes=0, memory=memory)
        assert plan.batch_size == fits and len(tried) <= 6 + math.ceil(math.log2(500))
