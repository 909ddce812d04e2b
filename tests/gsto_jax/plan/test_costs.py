"""Operations and bytes of instructions, compared with XLA's own."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from gsto_jax.plan import costs
from gsto_jax.plan.hlo import HLOProgram
from tests.gsto_jax.plan.small_programs import lower, total


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
    program = HLOProgram.parse(lowered.as_text(dialect="hlo"))
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
    program = HLOProgram.parse(FUSIONS)
    accessed = {x.name: costs.bytes_accessed(program, x) for x, _ in program.executions()}
    row, whole, number = 512, 64 * 512, 4
    assert accessed["take"] == row + row + number + 2 * whole
    assert accessed["put"] == row + row + row + number
    assert accessed["start"] == accessed["done"] == 2 * whole
    assert accessed["x"] == 0


def test_on_chip_memory_is_not_hbm():
    """A copy to the chip reads HBM once; fusions read the copy there and write their results."""
    on_chip = "f32[64,128]{1,0:S(1)}"
    text = FUSIONS.replace("%start = (f32[64,128]{1,0}", f"%start = ({on_chip}")
    text = text.replace("%done = f32[64,128]{1,0}", f"%done = {on_chip}")
    text = text.replace("%take = f32[1,128]{1,0}", "%take = f32[1,128]{1,0:S(1)}")
    program = HLOProgram.parse(text)
    moved = {x.name: costs.hbm_bytes(program, x) for x, _ in program.executions()}
    row, whole, number = 512, 64 * 512, 4
    assert moved["start"] == whole and moved["done"] == 0
    assert moved["take"] == row + number
    assert moved["put"] == row + row + number


ARGMAX = """
HloModule argmax

%larger (a: f32[], i: s32[], b: f32[], j: s32[]) -> (f32[], s32[]) {
  %a = f32[] parameter(0)
  %i = s32[] parameter(1)
  %b = f32[] parameter(2)
  %j = s32[] parameter(3)
  %value = f32[] maximum(%a, %b)
  %index = s32[] maximum(%i, %j)
  ROOT %pair = (f32[], s32[]) tuple(%value, %index)
}

%reducing (x: f32[64,128], n: s32[64,128], f: f32[], z: s32[]) -> (f32[64], s32[64]) {
  %x = f32[64,128]{1,0} parameter(0)
  %n = s32[64,128]{1,0} parameter(1)
  %f = f32[] parameter(2)
  %z = s32[] parameter(3)
  ROOT %best = (f32[64]{0}, s32[64]{0}) reduce(%x, %n, %f, %z), dimensions={1}, to_apply=%larger
}

ENTRY %main (x: f32[64,128], n: s32[64,128], f: f32[], z: s32[]) -> (f32[64], s32[64]) {
  %x = f32[64,128]{1,0} parameter(0)
  %n = s32[64,128]{1,0} parameter(1)
  %f = f32[] parameter(2)
  %z = s32[] parameter(3)
  ROOT %out = (f32[64]{0}, s32[64]{0:S(1)}) fusion(%x, %n, %f, %z), kind=kLoop, calls=%reducing
}
"""


def test_operation_with_several_results():
    program = HLOProgram.parse(ARGMAX)
    assert total(costs.hbm_bytes, program) == 2 * 4 * 64 * 128 + 4 + 4 + 4 * 64


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
    program, size = HLOProgram.parse(text), 2 * 16 * 128
    assert total(costs.bytes_accessed, program) == 3 * size
    assert total(costs.hbm_bytes, program) == size


def test_bytes_match_xla():
    def function(x, w):
        y = jnp.tanh(x @ w).sum(0) + x[3]
        return x.at[2].set(y), jnp.transpose(x)[:, :5]

    compiled = lower(function, (64, 64), (64, 64)).compile()
    accessed = total(costs.bytes_accessed, HLOProgram.parse(compiled.as_text()))
    assert accessed == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.01)
