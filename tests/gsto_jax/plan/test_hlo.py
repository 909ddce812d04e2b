"""HLO text: loops, branches, shapes, layouts and results of collectives."""

import jax.numpy as jnp
import pytest
from jax import lax

from gsto_jax import UserError
from gsto_jax.plan import costs
from gsto_jax.plan.hlo import HLOProgram, Instruction, parse_arrays, shape_nbytes, split_tuple
from tests.gsto_jax.plan.small_programs import lower, text_of

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
    program = HLOProgram.parse(COUNTER_LOOP.replace("STOP", str(stop)))
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
        program = HLOProgram.parse(text)
        assert (
            sum(n for x, n in program.executions() if x.opcode == "sine" or "/sin" in x.op_name)
            == 15
        )


def test_unknown_trip_counts():
    def halves(x):
        return lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    program = HLOProgram.parse(text_of(halves, (4, 4)))
    with pytest.raises(UserError, match="the loop"):
        list(program.executions())
    with pytest.raises(ValueError, match="entry"):
        HLOProgram.parse("HloModule nothing")


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
    program = HLOProgram.parse(BRANCHES)
    assert [x.name for x, _ in program.executions()][-2:] == ["one", "two"]
    names = [x.name for x, _ in program.executions(lambda x: x.opcode == "negate")]
    assert names[-1] == "cheaper" and "one" not in names
    old = "true_computation=%cheap, false_computation=%dear"
    program = HLOProgram.parse(BRANCHES.replace("branch_computations={%cheap, %dear}", old))
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
