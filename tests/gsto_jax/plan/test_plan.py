"""Cost of compiled programs: loops, fusions, kernels, layers, and tables."""

import math
import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.plan import compile as compiling
from gsto_jax.plan import costs, targets
from gsto_jax.plan.compile import OutOfMemory, largest_batch, plan_step
from gsto_jax.plan.hlo import Instruction, Program, parse_arrays, shape_nbytes, split_tuple
from gsto_jax.plan.kernel_schedule import clear_schedules, count_cycles, read_schedule
from gsto_jax.plan.speed import PlannedSpeed
from gsto_jax.plan.step_cost import (
    SLICE_EXCHANGE,
    CompiledStep,
    Cost,
    KernelCalls,
    LayerCost,
    StepPlan,
    count_collectives,
    layer_name,
    operation_name,
    peak_memory,
)
from gsto_jax.plan.step_time import StepTime
from gsto_jax.plan.tables import compare_table, plan_table, summary_table
from gsto_jax.plan.targets import CompileTarget, compile_target
from modes import command_line
from tests.gsto_jax.pose_runs import pose_task
from tests.gsto_jax.small_task import FAST, make_task

LENGTH = 16


def scanned(x, w):
    def body(x, _):
        return lax.optimization_barrier(jnp.tanh(x @ w)), None

    return lax.scan(body, x, None, length=LENGTH)[0].sum()


def unrolled(x, w):
    for _ in range(LENGTH):
        x = lax.optimization_barrier(jnp.tanh(x @ w))
    return x.sum()


def lower(function, *shapes, sharding=None):
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding) for shape in shapes]
    return jax.jit(function).lower(*specs)


def text_of(function, *shapes):
    return lower(function, *shapes).compile().as_text()


def count(program, word):
    return sum(times for x, times in program.executions() if word in x.op_name)


def total(cost, program, word=""):
    return sum(cost(program, x) * n for x, n in program.executions() if word in x.op_name)


def plan_function(function, *shapes, chips=None):
    chips = chips or CompileTarget(make_mesh(jax.devices()[:1]))
    if chips.schedule_dir:
        clear_schedules(chips.schedule_dir)
    lowered = lower(
        function, *shapes, sharding=NamedSharding(chips.mesh, PartitionSpec()) if chips else None
    )
    return CompiledStep(lowered.compile(), lowered, chips).plan("train", 1, 0.0)


def test_loops_cost_the_same_as_unrolled():
    """XLA's own totals count the body of a loop once."""
    shapes = (64, 32), (32, 32)
    loop, flat = (Program.parse(text_of(f, *shapes)) for f in (scanned, unrolled))
    assert count(loop, "dot_general") == count(flat, "dot_general") == LENGTH
    operations = LENGTH * 2 * 64 * 32 * 32
    moved = LENGTH * 4 * (2 * 64 * 32 + 32 * 32)
    for program in (loop, flat):
        assert total(costs.flops, program, "dot_general") == operations
        assert total(costs.bytes_accessed, program, "dot_general") == moved
    plan, expected = (plan_function(f, *shapes) for f in (scanned, unrolled))
    own = lower(scanned, *shapes).compile().cost_analysis()["flops"]
    assert own < operations / 8
    assert plan.flops == pytest.approx(expected.flops, rel=0.01) == pytest.approx(operations, 0.02)
    assert plan.loop_flops == pytest.approx(operations * (LENGTH - 1) / LENGTH, rel=0.01)
    assert expected.loop_flops == expected.loop_bytes == 0


COUNTER_LOOP = """
HloModule counted, is_scheduled=true

%condition (state: (s32[], f32[4], s32[])) -> pred[] {
  %stop = s32[]{:T(128)} constant(STOP)
  %state = (s32[]{:T(128)}, f32[4]{0:T(128)S(1)}, s32[]{:T(128)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%at, %stop), direction=LT, metadata={op_name="while/cond/lt"}
}

%body (state.1: (s32[], f32[4], s32[])) -> (s32[], f32[4], s32[]) {
  %state.1 = (s32[]{:T(128)}, f32[4]{0:T(128)S(1)}, s32[]{:T(128)}) parameter(0)
  %at.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %step = s32[]{:T(128)} get-tuple-element(%state.1), index=2
  %next = s32[]{:T(128)} add(%at.1, %step)
  %x = f32[4]{0:T(128)S(1)} get-tuple-element(%state.1), index=1
  %sine = f32[4]{0:T(128)S(1)} sine(%x), backend_config={"window_config":{"estimated_cycles":"70"}}
  ROOT %tuple.1 = (s32[], f32[4], s32[]) tuple(%next, %sine, %step)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0:T(128)} parameter(0)
  %zero = s32[]{:T(128)} constant(2)
  %three = s32[]{:T(128)} constant(3)
  %start = s32[]{:T(128)} copy(%zero)
  %tuple = (s32[]{:T(128)}, f32[4]{0:T(128)}, s32[]{:T(128)}) tuple(%start, %p, %three)
  %while = (s32[], f32[4], s32[]) while(%tuple), condition=%condition, body=%body
  ROOT %out = f32[4]{0:T(128)} get-tuple-element(%while), index=1
}
"""


@pytest.mark.parametrize(("stop", "runs"), [(17, 5), (18, 6), (2, 0), (-5, 0)])
def test_trip_counts_from_counters(stop, runs):
    """Counts from 2 in steps of 3, without XLA's annotation, as on TPUs."""
    program = Program.parse(COUNTER_LOOP.replace("STOP", str(stop)))
    assert sum(x.estimated_cycles * times for x, times in program.executions()) == 70 * runs
    # Four numbers fill a tile of 128; in and out.
    assert (
        sum(
            costs.bytes_accessed(program, x) * n
            for x, n in program.executions()
            if x.estimated_cycles
        )
        == 1024 * runs
    )


def test_loops_in_loops():
    def nested(x):
        def inner(_, x):
            return jnp.sin(x)

        return lax.fori_loop(0, 5, lambda _, x: lax.fori_loop(0, 3, inner, x), x)

    lowered = lower(nested, (8, 8))
    for text in (lowered.compile().as_text(), lowered.as_text(dialect="hlo")):
        program = Program.parse(text)
        assert (
            sum(n for x, n in program.executions() if x.opcode == "sine" or "/sin" in x.op_name)
            == 15
        )


def test_unknown_trip_counts():
    def halves(x):
        return lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    program = Program.parse(text_of(halves, (4, 4)))
    with pytest.raises(UserError, match="the loop"):
        list(program.executions())
    with pytest.raises(ValueError, match="entry"):
        Program.parse("HloModule nothing")


BRANCHES = """
HloModule branches

%cheap (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %cheaper = f32[8]{0} negate(%a), backend_config={"estimated_cycles":"10"}
}

%dear (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  %one = f32[8]{0} sine(%b), backend_config={"estimated_cycles":"8"}
  ROOT %two = f32[8]{0} cosine(%one), backend_config={"estimated_cycles":"9"}
}

ENTRY %main (i: s32[], p: f32[8]) -> f32[8] {
  %i = s32[] parameter(0)
  %p = f32[8]{0} parameter(1)
  ROOT %c = f32[8]{0} conditional(%i, %p, %p), branch_computations={%cheap, %dear}
}
"""


def test_the_most_expensive_branch_counts():
    program = Program.parse(BRANCHES)
    assert [x.name for x, _ in program.executions()][-2:] == ["one", "two"]
    names = [x.name for x, _ in program.executions(lambda x: x.opcode == "negate")]
    assert names[-1] == "cheaper" and "one" not in names
    old = "true_computation=%cheap, false_computation=%dear"
    program = Program.parse(BRANCHES.replace("branch_computations={%cheap, %dear}", old))
    assert sum(x.estimated_cycles * n for x, n in program.executions()) == 17


@pytest.mark.parametrize(
    ("shape", "size", "padded"),
    [
        ("f32[2,3]{1,0}", 24, 24),
        ("f32[2,3]", 24, 24),
        ("bf16[256,512]{1,0:T(8,128)(2,1)S(1)}", 262144, 262144),
        ("(s32[], pred[7]{0}, f32[])", 15, 15),
        ("u8[3]{0}", 3, 3),
        ("s4[3]{0}", 2, 2),
        ("token[]", 0, 0),
        # Columns are the fastest but one: 256 of them, and 18 channels above lie in no tile.
        ("bf16[8,128,256,18]{2,1,3,0:T(8,128)(2,1)}", 9437184, 9437184),
        # 18 channels fill 128 lanes.
        ("bf16[8,128,256,18]{3,2,1,0:T(8,128)(2,1)}", 9437184, 67108864),
        # 18 channels are the fastest, and 8 images fill the rows of a tile.
        ("bf16[8,128,256,18]{3,0,2,1:T(8,128)(2,1)}", 9437184, 67108864),
        ("bf16[3,128,256,18]{3,0,2,1:T(8,128)(2,1)}", 3538944, 67108864),
        ("f32[5]{0:T(128)}", 20, 512),
        ("s32[]{:T(128)}", 4, 512),
        ("(f32[5]{0:T(128)}, u32[]{:S(2)})", 24, 516),
    ],
)
def test_shape_nbytes(shape, size, padded):
    assert shape_nbytes(shape) == size
    assert sum(x.padded_nbytes for x in parse_arrays(shape)) == padded


def test_on_chip_arrays():
    assert [x.on_chip for x in parse_arrays("(f32[8]{0:T(128)S(1)}, u32[]{:S(2)}, f32[2])")] == [
        *(True, False, False)
    ]


def test_collective_results():
    """Asynchronous collectives return operands and scratch memory with their result."""
    assert split_tuple("f32[2]{0}") == ["f32[2]{0}"]
    assert split_tuple("((f32[2,3]{1,0}), (s8[4]{0}, u32[]), u32[])") == [
        *("(f32[2,3]{1,0})", "(s8[4]{0}, u32[])", "u32[]")
    ]
    for opcode, shape, size in (
        ("all-reduce", "(f32[8]{0}, f32[2]{0})", 40),
        ("all-reduce-start", "f32[8]{0:T(128)}", 32),
        ("all-gather-start", "(f32[8]{0:T(128)}, f32[32]{0:T(128)})", 128),
        ("all-gather-start", "((f32[8]{0}, s8[4]{0}), (f32[32]{0}, s8[16]{0}))", 144),
        ("collective-permute-start", "(f32[8]{0}, f32[8]{0}, u32[]{:S(2)}, u32[]{:S(2)})", 32),
    ):
        assert shape_nbytes(Instruction("x", opcode, shape, (), "", False).result_shape) == size


SLICES = """
HloModule slices

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[4,128]) -> f32[4,128] {
  %x = f32[4,128]{1,0:T(4,128)} parameter(0)
  %inside = f32[4,128]{1,0:T(4,128)} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  %token = token[] after-all()
  %send = (f32[4,128]{1,0:T(4,128)}, u32[], token[]) send(%inside, %token), \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %recv = (f32[4,128]{1,0:T(4,128)}, u32[], token[]) recv(%token), is_host_transfer=true
  %sent = token[] send-done(%send), is_host_transfer=true
  %received = (f32[4,128]{1,0:T(4,128)}, token[]) recv-done(%recv), is_host_transfer=true
  ROOT %out = f32[4,128]{1,0:T(4,128)} get-tuple-element(%received), index=0
}
"""


def test_exchanges_between_slices():
    """As XLA compiles an all-reduce over the devices of two TPU slices."""
    collectives = count_collectives(Program.parse(SLICES).executions())
    assert collectives == {"all-reduce": (1, 2048), SLICE_EXCHANGE: (1, 2048)}


def convolved(x, w, **options):
    return lax.conv_general_dilated(
        x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **{"window_strides": (1, 1), **options}
    )


def pooled(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), "VALID")


X, W = (2, 9, 12, 6), (3, 3, 6, 4)
PROGRAMS = {
    "same": (partial(convolved, padding="SAME"), X, W),
    "strided": (partial(convolved, padding=((1, 1), (0, 2)), window_strides=(2, 3)), X, W),
    "cropped": (partial(convolved, padding=((-1, 0), (0, -1))), X, W),
    "dilated": (partial(convolved, padding="SAME", rhs_dilation=(2, 1)), X, W),
    "upsampling": (partial(convolved, padding=((2, 1), (1, 2)), lhs_dilation=(2, 2)), X, W),
    "grouped": (partial(convolved, padding="SAME", feature_group_count=3), X, (3, 3, 2, 9)),
    "batches": (partial(convolved, padding="SAME", batch_group_count=2), X, W),
    "gradient": (jax.grad(lambda x, w: (convolved(x, w, padding="SAME") ** 2).sum(), 1), X, W),
    "product": (lambda x, y: jnp.einsum("bij,bkj->bik", x, y), (3, 4, 5), (3, 6, 5)),
    "elementwise": (lambda x: jnp.where(x > 0, x * x + 1, jnp.abs(x)), X),
    "sum": (lambda x: x.sum((1, 2)), X),
    "pool": (pooled, X),
    "pool's gradient": (jax.grad(lambda x: pooled(x).sum()), X),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_flops_match_xla(name):
    function, *shapes = PROGRAMS[name]
    lowered = lower(function, *shapes)
    program = Program.parse(lowered.as_text(dialect="hlo"))
    assert total(costs.flops, program) == lowered.cost_analysis()["flops"] > 0


FUSIONS = """
HloModule fused

%inner (q: f32[64,128]) -> f32[64,128] {
  %q = f32[64,128]{1,0} parameter(0)
  ROOT %copied = f32[64,128]{1,0} bitcast(%q)
}

%sliced (a: f32[64,128], i: s32[], twice: f32[64,128]) -> f32[1,128] {
  %a = f32[64,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %twice = f32[64,128]{1,0} parameter(2)
  %row = f32[1,128]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,128}
  %first = f32[64,128]{1,0} fusion(%twice), kind=kLoop, calls=%inner
  %second = f32[64,128]{1,0} fusion(%twice), kind=kLoop, calls=%inner
  %both = f32[64,128]{1,0} add(%first, %second)
  %part = f32[1,128]{1,0} slice(%both), slice={[0:1], [0:128]}
  ROOT %made = f32[1,128]{1,0} add(%row, %part)
}

%changed (c: f32[64,128], u: f32[1,128], j: s32[]) -> f32[64,128] {
  %c = f32[64,128]{1,0} parameter(0)
  %u = f32[1,128]{1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %update = f32[64,128]{1,0} dynamic-update-slice(%c, %u, %j, %j)
}

ENTRY %main (x: f32[64,128], n: s32[]) -> f32[64,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %start = (f32[64,128]{1,0}, f32[64,128]{1,0}, u32[]) copy-start(%x)
  %done = f32[64,128]{1,0} copy-done(%start)
  %take = f32[1,128]{1,0} fusion(%x, %n, %done), kind=kLoop, calls=%sliced
  ROOT %put = f32[64,128]{1,0} fusion(%x, %take, %n), kind=kLoop, calls=%changed
}
"""


def test_fusion_bytes():
    """Fusions read the sliced part of an operand and write the updated part."""
    program = Program.parse(FUSIONS)
    accessed = {x.name: costs.bytes_accessed(program, x) for x, _ in program.executions()}
    row, whole, number = 512, 64 * 512, 4
    assert accessed["take"] == row + row + number + 2 * whole
    assert accessed["put"] == row + row + row + number
    assert accessed["start"] == accessed["done"] == 2 * whole
    assert accessed["x"] == 0


ASYNC_SLICE = """
HloModule background

%taking (a: bf16[64,128]) -> bf16[16,128] {
  %a = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %taken = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} slice(%a), slice={[0:16], [0:128]}
}

ENTRY %main (x: bf16[64,128]) -> bf16[16,128] {
  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %start = ((bf16[64,128]{1,0:T(8,128)(2,1)}), bf16[16,128]{1,0:T(8,128)(2,1)S(1)}, s32[]) START
  ROOT %done = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} DONE(%start)
}
"""


@pytest.mark.parametrize(
    ("start", "done"),
    [
        ("async-start(%x), calls=%taking", "async-done"),
        ("slice-start(%x), slice={[0:16], [0:128]}", "slice-done"),
    ],
)
def test_asynchronous_slice_bytes(start, done):
    """XLA counts the slice three times, and the sliced array not at all."""
    text = ASYNC_SLICE.replace("START", start).replace("DONE", done)
    assert total(costs.bytes_accessed, Program.parse(text)) == 3 * 2 * 16 * 128


def test_bytes_match_xla():
    def function(x, w):
        y = jnp.tanh(x @ w).sum(0) + x[3]
        return x.at[2].set(y), jnp.transpose(x)[:, :5]

    compiled = lower(function, (64, 64), (64, 64)).compile()
    accessed = total(costs.bytes_accessed, Program.parse(compiled.as_text()))
    assert accessed == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.01)


KERNEL = """
HloModule kernels

%body (s: (s32[], bf16[64,96])) -> (s32[], bf16[64,96]) {
  %s = (s32[], bf16[64,96]{1,0:T(8,128)(2,1)}) parameter(0)
  %k = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %more = s32[] add(%k, %one)
  %v = bf16[64,96]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=1
  %room = u8[4096]{0} custom-call(), custom_call_target="AllocateBuffer"
  %gate.1 = bf16[64,96]{1,0:T(8,128)(2,1)S(1)} custom-call(%v, %v), \
custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUzv"COST}}
  ROOT %t = (s32[], bf16[64,96]) tuple(%more, %gate.1)
}

%goes_on (s.1: (s32[], bf16[64,96])) -> pred[] {
  %s.1 = (s32[], bf16[64,96]{1,0:T(8,128)(2,1)}) parameter(0)
  %k.1 = s32[] get-tuple-element(%s.1), index=0
  %five = s32[] constant(5)
  ROOT %lt = pred[] compare(%k.1, %five), direction=LT
}

ENTRY %main (p: bf16[64,96]) -> bf16[64,96] {
  %p = bf16[64,96]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[] constant(0)
  %state = (s32[], bf16[64,96]{1,0:T(8,128)(2,1)}) tuple(%zero, %p)
  %while = (s32[], bf16[64,96]) while(%state), condition=%goes_on, body=%body
  ROOT %out = bf16[64,96]{1,0:T(8,128)(2,1)} get-tuple-element(%while), index=1
}
"""
DECLARED_COST = ',"cost_estimate":{"flops":"700","transcendentals":"9","bytes_accessed":"5000"}'
PADDED = 64 * 128 * 2


def compiled_kernel(declared_cost):
    """Returns a fake program: XLA counts a kernel's declared cost, and a loop once."""
    loop = 5 * 4 + 4 + 4 + 1
    return SimpleNamespace(
        as_text=lambda: KERNEL.replace("COST", declared_cost),
        cost_analysis=lambda: {
            "flops": 2.0 + 700 * bool(declared_cost),
            "bytes accessed": loop + 5000.0 * bool(declared_cost),
        },
        memory_analysis=lambda: SimpleNamespace(peak_memory_in_bytes=77),
    )


@pytest.mark.parametrize("declared_cost", ["", DECLARED_COST])
@pytest.mark.parametrize(("bundles", "cycles"), [(300, 300), (20, 2 * PADDED / 546), (None, 60.0)])
def test_kernels(tmp_path, monkeypatch, declared_cost, bundles, cycles):
    """Checks bytes of operands and results, and the larger of two cycle counts."""
    if bundles:
        (tmp_path / "17-gate.1-01-final_bundles.txt").write_text(BUNDLE * bundles)
        (tmp_path / "17-gate.1-00-schedule-analysis_final_bundles.txt").write_text("no schedule")
        (tmp_path / "17-other-gate.1-01-final_bundles.txt").write_text(BUNDLE)
    chips = CompileTarget(make_mesh(jax.devices()[:1]), 2**30, 546.0, tmp_path)
    plan = CompiledStep(compiled_kernel(declared_cost), None, chips).plan("train", 1, 1.0)
    assert (plan.num_kernel_calls, plan.unscheduled_calls) == (5, 0 if bundles else 5)
    assert plan.cost.kernel_cycles == pytest.approx(5 * cycles, rel=1e-2)
    assert plan.cost.xla_cycles == 0
    # The result stays on the chip: that counts as accessed, but takes no time.
    assert plan.layers[0].cost.bytes_accessed >= 5 * 3 * PADDED
    assert plan.bytes_accessed == pytest.approx(5 * 3 * PADDED, rel=1e-2)
    assert plan.flops == 5 * (700 * bool(declared_cost) + 1) + 6


RELAYOUTS = """
HloModule beside

%turned (x: bf16[64,96]) -> bf16[96,64] {
  %x = bf16[64,96]{1,0} parameter(0)
  ROOT %y = bf16[96,64]{1,0} transpose(%x), dimensions={1,0}
}

%added (u: bf16[64,96]) -> bf16[64,96] {
  %u = bf16[64,96]{1,0} parameter(0)
  %c = bf16[64,96]{1,0} copy(%u)
  ROOT %v = bf16[64,96]{1,0} add(%c, %c)
}

ENTRY %main (p: bf16[64,96], q: bf16[64,96]) -> (bf16[96,64], bf16[64,96]) {
  %p = bf16[64,96]{1,0} parameter(0)
  %q = bf16[64,96]{1,0} parameter(1)
  %copy = bf16[64,96]{0,1} copy(%p)
  %cs = (bf16[64,96]{0,1:S(1)}, bf16[64,96]{0,1}, u32[]{:S(2)}) copy-start(%copy)
  %cd = bf16[64,96]{0,1:S(1)} copy-done(%cs)
  %made = bf16[64,96]{1,0} fusion(%q), kind=kLoop, calls=%added
  %gates.1 = (bf16[64,96]{1,0}, bf16[64,96]{1,0}) custom-call(%cd, %made), \
custom_call_target="tpu_custom_call"
  %one = bf16[64,96]{1,0} get-tuple-element(%gates.1), index=0
  %two = bf16[64,96]{1,0} get-tuple-element(%gates.1), index=1
  %turn = bf16[96,64]{1,0} fusion(%one), kind=kLoop, calls=%turned
  %last = bf16[64,96]{1,0} fusion(%two), kind=kLoop, calls=%added
  %gates.2 = bf16[64,96]{1,0} custom-call(%copy), custom_call_target="tpu_custom_call"
  ROOT %out = (bf16[96,64]{1,0}, bf16[64,96]{1,0}) tuple(%turn, %gates.2)
}
"""


def test_relayouts_next_to_kernels():
    """A copy read by two kernels counts once; a fusion that computes is not a relayout."""
    size = 64 * 96 * 2
    program = Program.parse(RELAYOUTS)
    first, second = (x for x, _ in program.executions() if x.is_kernel)
    assert [x.name for x in costs.adjacent_relayouts(program, first)] == ["copy", "turn"]
    assert [x.name for x in costs.adjacent_relayouts(program, second)] == ["copy"]
    compiled = SimpleNamespace(
        as_text=lambda: RELAYOUTS,
        cost_analysis=lambda: {"flops": 1.0, "bytes accessed": 1.0},
        memory_analysis=lambda: SimpleNamespace(peak_memory_in_bytes=77),
    )
    chips = CompileTarget(make_mesh(jax.devices()[:1]), 2**30, 546.0)
    plan = CompiledStep(compiled, None, chips).plan("train", 1, 1.0)
    assert plan.kernels == {"gates": KernelCalls(2, 6 * size, 4 * size)}
    # Nothing loops, so it is XLA's sum, and what XLA does not see.
    assert plan.bytes_accessed == 1 + 6 * size


BUNDLE = "   0x1   :  { %v1 = vadd.f32 %v2, %v3 }\n"
SCHEDULE = """= control target key start
LB: loop body
= control target key end

     0   :  { %s12_s0 = smov 0  ;;  %s99_s1 = inlined_call_operand.hbm [shape: f32[1024,1024]] }
   0x1 LB: > { %s4_s2 = sadd.s32 4294967295, %s7_s3 STAGED  ;;  \
%s7_s3 = sphi %s12_s0, %s31_s5 } /* Start region 61 :: Start region 21 */
   0x2   : > { %s8_s5 = sadd.s32 1, %s7_s3  ;;  %s20_s4 = smov 3 }
   0x3   : > { %s31_s5 = smov %s8_s5 }
   0x4 LB: >> { %s9_s6 = sadd.s32 4, %s10_s6  ;;  \
%s10_s6 = sphi %s20_s4, %s9_s6 } /* Start region 7 */
   0x5   : >> { %p3_p1 = scmp.ge.s32.totalorder %s9_s6, LIMIT /* loop exit test */ }
   0x6   : >> { %v5_v1 = vadd.f32 %v2_v2, %v3_v3  ;;  %15 = sbr.rel (!%p3_p1) target = $region7 }
   0x7   : >> { %v6_v1 = vadd.f32 %v5_v1, %v3_v3 }
   0x8   :  {}
   0x9   : > { %p4_p2 = scmp.ge.s32.totalorder (%p3_p1), %s8_s5, 18 /* loop exit test */ }
   0xa   :  { %16 = sbr.rel (!%p4_p2) target = $region61 }
   0xb   :  {}
   0xc   :  { %vm = vsyncpa [#allocation3], 1 }
"""
STAGED = "/* iteration index, stage = 1 */"


@pytest.mark.parametrize(("limit", "inner"), [(700, 175), (4, 1), (16, 4), (19, 4), (20, 5)])
def test_count_cycles(limit, inner):
    """A pipelined grid loop has two more iterations than the grid."""
    text = SCHEDULE.replace("LIMIT", str(limit))
    # Bundles of the inner loop, with the delay behind its branch; of the outer one; around both.
    once = 5 * inner + (3 + 1 + 2)
    assert count_cycles(text.replace("STAGED", STAGED)) == 1 + 16 * once + 1
    assert count_cycles(text.replace("STAGED", "")) == 1 + 18 * once + 1


@pytest.mark.parametrize(
    ("limit", "trips"),
    [("sshrl.u32 %s51_s1, 5 ", 1), ("sand.u32 31, %s51_s1 ", 2), ("sshrl.u32 %s51_s1, 1 ", 5)],
)
def test_loops_over_block_rows(limit, trips):
    """The last block may have fewer than 42 rows; all 42 count."""
    rows = "   0x0   :  { %s51_s1 = smov (!%p52_p1, %s53_s1), 42 }\n"
    rows += "   0x0   :  { %p52_p1 = scmp.lt.s32.totalorder %s53_s1, 42 }\n"
    rows += f"   0x0   :  {{ %s50_s1 = {limit}}}\n"
    text = SCHEDULE.replace("STAGED", "").replace("%s9_s6, LIMIT", "%s9_s6, %s50_s1")
    text = text.replace("   0x1 LB", rows + "   0x1 LB")
    # From 3, by 4.
    assert count_cycles(text) == 3 + 1 + 18 * (5 * trips + 6) + 1


def test_spilled_counters():
    text = SCHEDULE.replace("STAGED", "").replace("%s9_s6, LIMIT", "%s60_s1, 19")
    store = "   : >> { %17 = sst [smem:[#allocation4_spill]] %s9_s6 ;; %v5_v1"
    text = text.replace("   : >> { %v5_v1", store)
    load = " ;; %s60_s1 = sld [smem:[#allocation4_spill]]  }\n   0x8"
    text = text.replace(" }\n   0x8", load)
    assert count_cycles(text) == 1 + 18 * (5 * 4 + 6) + 1


def test_unknown_trip_counts_in_kernels():
    text = SCHEDULE.replace("%s9_s6, LIMIT", "%s9_s6, %s99_s1")
    with pytest.raises(UserError, match="kernel"):
        count_cycles(text)
    with pytest.raises(ValueError, match="bundles"):
        count_cycles("nothing")


def test_read_and_clear_schedules(tmp_path):
    (tmp_path / "123-a.b-1-01-final_bundles.txt").write_text("text")
    assert read_schedule(tmp_path, "a.b-1") == "text"
    assert read_schedule(tmp_path, "aXb-1") is read_schedule(tmp_path, "b-1") is None
    clear_schedules(tmp_path)
    assert not any(tmp_path.iterdir())


def make_instruction(op_name):
    text = f'  %x = f32[] add(%a, %b), metadata={{op_name="{op_name}"}}'
    return Instruction("x", "add", "f32[]", ("a", "b"), text, False)


def test_layer_and_operation_names():
    branch = make_instruction("jit(train_step)/jvp(HRNet)/stage3_module1/branch0/conv")
    assert (layer_name(branch), operation_name(branch)) == ("stage3_module1", "conv")
    layer = layer_name(
        make_instruction("jit(train_step)/transpose(jvp(HRNet))/transition2/gtm/head/mul")
    )
    assert layer == "transition2 backward"
    assert layer_name(make_instruction("jit(train_step)/mul")) == "loss, optimizer, other"
    assert operation_name(make_instruction("")) == "add"


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
    plan = plan_step(pose_task(4), CompileTarget(make_mesh(jax.devices()[:1])), 2, (64, 48), step)
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


def make_plan(**changes):
    cost = Cost(4e6, 1e6, 3e9)
    layers = (
        LayerCost("head", cost, "conv", 0.5),
        LayerCost("stem1", Cost(1e6, 0, 1e9), "add", 1.0),
    )
    values = {"step": "train", "batch_size": 2, "peak_memory": 2**30, "flops": 5e9}
    values |= {"bytes_accessed": 8e9, "cost": cost, "loop_flops": 0, "loop_bytes": 0}
    values |= {"collectives": {"all-reduce": (3, 4e6)}, "layers": layers}
    values |= {"kernels": {"gate": KernelCalls(7)}, "unscheduled_calls": 0, "compile_seconds": 9.0}
    return StepPlan(**values | changes)


def cells(table):
    columns = [list(column.cells) for column in table.columns]
    return {name: row for name, *row in zip(*columns, strict=True)}


def test_plan_table():
    table = plan_table(make_plan(), "a step")
    assert [str(column.header) for column in table.columns] == [
        *("on one chip", "XLA\nMcycles", "kernel\nMcycles", "GB\naccessed", "details")
    ]
    rows = cells(table)
    assert rows["step"] == ["4.000", "1.000", "8.000", "5.00 GFLOPs"]
    assert rows["step, per image"] == ["2.000", "0.500", "4.000", ""]
    assert rows["head"] == ["4.000", "1.000", "3.000", "50% in conv"]
    assert rows["all-reduce"][-1] == "3 calls, 0.004 GB"
    assert "7 calls of Pallas kernels" in table.caption and "not times" in table.caption
    calls = {"gates": KernelCalls(3, 2 * 10**9, 10**9), "loss": KernelCalls(1, 10**9)}
    rows = cells(plan_table(make_plan(kernels=calls), "a step"))
    assert rows["kernel gates"][-1] == "3 calls, 2.000 GB, layout changes 1.000 GB"
    assert rows["kernel loss"][-1] == "1 calls, 1.000 GB"
    bare = plan_table(make_plan(cost=Cost(bytes_accessed=3e9), kernels={}), "a step", "device")
    assert [str(column.header) for column in bare.columns] == [
        *("on one device", "GB\naccessed", "details")
    ]
    assert "Cycles are not estimated" in bare.caption


def test_summary_table():
    speed = PlannedSpeed((744.2, 778.3), (0.0512, 0.0533), 197e12, 4)
    table = summary_table(
        make_plan(queued_bytes=2**29),
        StepTime(0.010, 0.020, 0.005),
        speed,
        memory=2**34,
        title="a step",
        extra_rows={"input": "190 images/s"},
    )
    rows = {name: row[0] for name, row in cells(table).items()}
    assert rows["memory of a chip"].startswith("1.50 of 16 GiB: fits")
    assert rows["time of a step"].startswith("20.00 to 25.00 ms")
    assert rows["images per second"] == "744 to 778 on all chips"
    assert rows["share of the peak"].startswith("5.12 to 5.33 % of 197 TFLOP/s")
    assert rows["input"] == "190 images/s"
    unknown = replace(speed, images_per_second=(5.0, 5.0), peak_fraction=None)
    time = StepTime(0.010, 0.020, None)
    bare = summary_table(make_plan(), time, unknown, memory=2**34, title="", device="device")
    rows = cells(bare)
    assert rows["images per second"] == ["5 on all devices"] and "share of the peak" not in rows


def test_compare_table():
    other = make_plan(
        batch_size=4, bytes_accessed=4e9, collectives={}, cost=Cost(6e6, 0, 3e9), layers=()
    )
    rows = cells(compare_table(make_plan(), other, ("one", "two"), "steps"))
    assert rows["batch size"] == ["2", "4", "2.00"]
    assert rows["GB accessed"] == ["8.00", "4.00", "0.50"]
    assert rows["GB accessed per image"] == ["4.00", "1.00", "0.25"]
    assert rows["XLA Mcycles"] == ["4.00", "6.00", "1.50"]
    assert rows["kernel Mcycles"] == ["1.00", "0.00", "0.00"]
    assert rows["all-reduce calls"] == ["3", "0", "0.00"]
    assert rows["head, Mcycles"] == ["5.000", "0.000", "0.00"]


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


def test_missing_compilers(monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="libtpu"):
        compile_target("v5e:2x2")

    def raise_module_not_found(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(targets, "find_spec", raise_module_not_found)
    with pytest.raises(UserError, match="cuda"):
        compile_target("h100")


@pytest.mark.filterwarnings("ignore:the load_module")  # how ml_collections loads a file
def test_another_configuration_gets_the_same_flags(monkeypatch):
    argv = ["main.py", "--config=x.py", "--config.seed=7", "--mode=plan", "--config.train.steps=9"]
    monkeypatch.setattr("sys.argv", argv)
    config = command_line.load_with_overrides("configs/quickstart.py:baseline,batch=8")
    assert (config.name, config.seed, config.train.steps) == ("quickstart-baseline-batch8", 7, 9)
    with pytest.raises(Exception, match="config argument must be") as error:
        command_line.load_with_overrides("configs/quickstart.py:nope")
    assert command_line.last_line(error.value).endswith("got ':nope'")
    with pytest.raises(Exception, match=r"configs/nope\.py") as error:
        command_line.load_with_overrides("configs/nope.py")
    assert "configs/nope.py" in command_line.last_line(error.value)


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
    program = Program.parse(compiled.as_text())
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
