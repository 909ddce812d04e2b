"""Small functions as compiled programs, and what they cost."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.plan.kernel_schedule import clear_schedules
from gsto_jax.plan.step_cost import CompiledStep
from gsto_jax.plan.targets import CompileTarget

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
