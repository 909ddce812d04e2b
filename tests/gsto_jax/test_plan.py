"""Programs are read as they run: loops multiplied out, unknown ones refused."""

import jax
import jax.numpy as jnp
import pytest

from gsto_jax import UserError
from gsto_jax.parallel import make_mesh
from gsto_jax.plan.hlo import Instruction, Program, shape_bytes
from gsto_jax.plan.machines import memory_of, tpu_mesh
from gsto_jax.plan.measure import layer_of, plan
from gsto_jax.plan.tables import plan_table
from tests.gsto_jax.pose_runs import pose_task
from tests.gsto_jax.test_train import make_task

LENGTH = 16


def scanned(x, w):
    def body(x, _):
        return jnp.tanh(x @ w), None

    return jax.lax.scan(body, x, None, length=LENGTH)[0].sum()


def unrolled(x, w):
    for _ in range(LENGTH):
        x = jnp.tanh(x @ w)
    return x.sum()


def text_of(function, *shapes):
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*specs).compile().as_text()


def count(program, word):
    return sum(times for x, times in program.runs() if word in x.op_name)


def test_a_loop_counts_as_often_as_it_runs():
    shapes = (64, 32), (32, 32)
    loop, flat = (Program.read(text_of(f, *shapes)) for f in (scanned, unrolled))
    assert count(loop, "dot_general") == count(flat, "dot_general") == LENGTH
    bytes_of = {
        name: sum(
            program.operand_bytes(x) * times
            for x, times in program.runs()
            if "dot_general" in x.op_name
        )
        for name, program in (("loop", loop), ("flat", flat))
    }
    assert bytes_of["loop"] == bytes_of["flat"] == LENGTH * 4 * (2 * 64 * 32 + 32 * 32)


COUNTED = """
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
def test_a_counter_tells_how_often(stop, runs):
    """Programs for TPUs carry no note of it: from 2 by 3 up to a stop."""
    program = Program.read(COUNTED.replace("STOP", str(stop)))
    assert sum(x.cycles * times for x, times in program.runs()) == 70 * runs
    assert sum(program.operand_bytes(x) * n for x, n in program.runs() if x.cycles) == 32 * runs


def test_loops_in_loops():
    def nested(x):
        def inner(_, x):
            return jnp.sin(x)

        return jax.lax.fori_loop(0, 5, lambda _, x: jax.lax.fori_loop(0, 3, inner, x), x)

    assert count(Program.read(text_of(nested, (8, 8))), "sin") == 15


def test_a_loop_of_unknown_length_is_refused():
    def halves(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    program = Program.read(text_of(halves, (4, 4)))
    with pytest.raises(UserError, match="runs an unknown number of times"):
        list(program.runs())
    with pytest.raises(ValueError, match="no entry"):
        Program.read("HloModule nothing")


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[256,512]{1,0:T(8,128)(2,1)S(1)}", 262144),
        ("(s32[], pred[7]{0}, f32[])", 15),
        ("u8[3]{0}", 3),
        ("s4[3]{0}", 2),
        ("token[]", 0),
    ],
)
def test_bytes_of_shapes(shape, size):
    assert shape_bytes(shape) == size


def test_layers_by_their_names():
    def named(op_name):
        text = f'  %x = f32[] add(%a, %b), metadata={{op_name="{op_name}"}}'
        return layer_of(Instruction("x", "add", "f32[]", ("a", "b"), text, False))

    assert named("jit(train_step)/jvp(HRNet)/stage3_module1/branch0/conv") == "stage3_module1"
    found = named("jit(train_step)/transpose(jvp(HRNet))/transition2/gtm/head/mul")
    assert found == "transition2 backward"
    assert named("jit(train_step)/mul") == "loss, optimiser, rest"


@pytest.mark.parametrize("step", ["train", "eval"])
def test_the_steps_of_a_segmentation_task(step):
    """On CPUs XLA estimates no cycles; the rest is there."""
    mesh = make_mesh(jax.devices()[:2])
    found = plan(make_task(4), mesh, 4, (32, 32), step)
    assert (found.batch, found.step) == (2, step)
    assert found.flops > 1e6 and found.bytes > 1e6 and found.peak > 1e5
    assert ("all-reduce" in found.collectives) == (mesh.size > 1)
    names = {name for name, _ in found.layers}
    assert {"stem1", "stage4_module0", "head"} <= names
    assert ("head backward" in names) == (step == "train")
    table = plan_table(found, memory_of("v5e:2x2"), "a step")
    assert "fits" in str(list(table.columns[3].cells))


def test_the_step_of_a_pose_task():
    found = plan(pose_task(4), make_mesh(jax.devices()[:1]), 2, (64, 48))
    assert found.flops > 1e6 and found.batch == 2


def test_topologies_have_names():
    for name in ("v5e", "h100:2x2", "v5e:"):
        with pytest.raises(UserError, match="give a chip and a shape, such as v4:2x2"):
            tpu_mesh(name)
