"""Programs that do the same work are alike, whatever their values are called."""

import pytest

from gsto_jax.plan.hlo import Program
from gsto_jax.plan.likeness import difference, operations

TEXT = """HloModule jit_step

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %c = f32[] constant(0.25)
  %b = f32[8]{0} broadcast(%c), dimensions={}
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


def read(*changes):
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return operations(Program.read(text))


def test_each_operation_counts_as_often_as_it_runs():
    assert sorted(read().values()) == [1, 1, 2]


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
def test_what_makes_no_difference(change):
    assert difference(read(), read(change)) == 0


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        (("multiply(%p", "divide(%p"), 4 / 8),  # inside a fusion that runs twice
        (("dimensions={}", "dimensions={0}"), 4 / 8),
        (("%all = f32[8]{0} all-reduce", "%all = f32[8]{0:T(128)} all-reduce"), 4 / 8),
        (("%two = f32[8]{0} fusion(%all)", "%two = f32[8]{0} fusion(%one)"), 0),
        (("ROOT %two = f32[8]{0} fusion(%all)", "ROOT %two = f32[8]{0} negate(%all)"), 2 / 8),
    ],
)
def test_what_does(change, apart):
    assert difference(read(), read(change)) == pytest.approx(apart)


def test_kernels_go_by_their_names():
    def call(name):
        line = f'%{name} = f32[8]{{0}} custom-call(%a), custom_call_target="tpu_custom_call"'
        return read(("%one = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused", line))

    assert difference(call("gate.1"), call("gate.2")) == 0
    assert difference(call("gate.1"), call("merge.1")) > 0
