"""Costs of compiled steps: loops, kernels, relayouts, layers."""

from types import SimpleNamespace

import jax
import pytest

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.plan import costs
from gsto_jax.plan.hlo import HLOProgram, Instruction
from gsto_jax.plan.step_cost import (
    SLICE_EXCHANGE,
    CompiledStep,
    KernelCalls,
    count_collectives,
    layer_name,
    operation_name,
)
from gsto_jax.plan.targets import CompileTarget
from tests.gsto_jax.plan.small_programs import (
    LENGTH,
    count,
    lower,
    plan_function,
    scanned,
    text_of,
    total,
    unrolled,
)


def test_loops_cost_the_same_as_unrolled():
    """XLA's own totals count the body of a loop once."""
    shapes = (64, 32), (32, 32)
    loop, flat = (HLOProgram.parse(text_of(f, *shapes)) for f in (scanned, unrolled))
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
    collectives = count_collectives(HLOProgram.parse(SLICES).executions())
    assert collectives == {"all-reduce": (1, 2048), SLICE_EXCHANGE: (1, 2048)}


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
    program = HLOProgram.parse(RELAYOUTS)
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
