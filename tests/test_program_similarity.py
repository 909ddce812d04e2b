"""Equivalent programs are similar regardless of the names of their values."""

import pytest

from benchmarks.program_similarity import difference, operations
from gsto_jax.plan.hlo import HLOProgram

TEXT = """HloModule jit_step

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %c = f32[] constant(0.25)
  %b = f32[8]{0} broadcast(%c), dimensions={}
  %unused = s32[] constant(7)
  ROOT %m = f32[8]{0} multiply(%p, %b), metadata={op_name="jit(step)/mul"}
}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %one = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused
  %all = f32[8]{0} all-reduce(%one), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%sum
  ROOT %two = f32[8]{0} fusion(%all), kind=kLoop, calls=%fused
}
"""

LOOP = """HloModule jit_loop

%condition (s: (s32[], f32[64])) -> pred[] {
  %s = (s32[], f32[64]{0}) parameter(0)
  %at = s32[] get-tuple-element(%s), index=0
  %stop = s32[] constant(TIMES)
  ROOT %less = pred[] compare(%at, %stop), direction=LT
}

%body (s.1: (s32[], f32[64])) -> (s32[], f32[64]) {
  %s.1 = (s32[], f32[64]{0}) parameter(0)
  %at.1 = s32[] get-tuple-element(%s.1), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%at.1, %one)
  %x = f32[64]{0} get-tuple-element(%s.1), index=1
  %sine = f32[64]{0} sine(%x)
  ROOT %made = (s32[], f32[64]{0}) tuple(%next, %sine)
}

ENTRY %main (p: f32[64]) -> f32[64] {
  %p = f32[64]{0} parameter(0)
  %zero = s32[] constant(0)
  %state = (s32[], f32[64]{0}) tuple(%zero, %p)
  %while = (s32[], f32[64]{0}) while(%state), condition=%condition, body=%body
  ROOT %out = f32[64]{0} get-tuple-element(%while), index=1
}
"""


def read(*changes):
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return operations(HLOProgram.parse(text))


def test_operations_count_by_the_bytes_that_they_move():
    assert sorted(read().values()) == [0, 64, 128]  # the fusion runs twice


def test_a_loop_counts_as_often_as_it_runs():
    def loop(times):
        return operations(HLOProgram.parse(LOOP.replace("TIMES", str(times))))

    assert loop(6).total() - loop(5).total() == loop(5).total() - loop(4).total() > 0
    assert 0 < difference(loop(5), loop(6)) < 0.2


@pytest.mark.parametrize(
    "change",
    [
        ("%one", "%fusion.17"),
        ("%m", "%product"),
        ("channel_id=1, replica_groups={{0,1,2,3}}", "channel_id=7, replica_groups=[1,256]<=[256]"),
        ("constant(0.25)", "constant(0.00390625)"),
        ("jit(step)/mul", "jit(step)/scale"),
    ],
)
def test_equivalent_programs_are_equal(change):
    assert difference(read(), read(change)) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("multiply(%p", "divide(%p"), 2 / 3),  # inside a fusion that runs twice
        (("dimensions={}", "dimensions={0}"), 2 / 3),
        (("add(%x, %y)", "maximum(%x, %y)"), 1 / 3),
        (("to_apply=%sum", "to_apply=%sum, constrain_layout=true"), 1 / 3),
        (("ROOT %two = f32[8]{0} fusion(%all)", "ROOT %two = f32[8]{0} negate(%all)"), 1 / 3),
        (("s32[] constant(7)", "s32[] constant(8)"), 2 / 3),
    ],
)
def test_different_programs_differ(change, expected):
    assert difference(read(), read(change)) == pytest.approx(expected)


def test_kernels_go_by_their_names_and_bodies():
    def call(name, body="x"):
        config = f'backend_config={{"custom_call_config":{{"body":"{body}"}}}}'
        line = f'%{name} = f32[8]{{0}} custom-call(%a), custom_call_target="tpu_custom_call"'
        return read(("%one = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused", f"{line}, {config}"))

    assert difference(call("gate.1"), call("gate.2")) == 0
    assert difference(call("gate.1"), call("merge.1")) > 0
    assert difference(call("gate.1"), call("gate.1", "y")) > 0
