"""Training on CPUs: optimization barriers and memory allocation."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax.devices.mesh import compiler_options, make_mesh
from gsto_jax.ops.materialize import materialize, relu

X = jnp.asarray([[-1.0, 0.5], [2.0, -3.0]])


def test_materialize_changes_no_value_and_no_gradient():
    np.testing.assert_array_equal(materialize(X), X)
    np.testing.assert_array_equal(relu(X), jnp.maximum(X, 0))
    value, grad = jax.value_and_grad(lambda x: (materialize(x) ** 2).sum())(X)
    np.testing.assert_allclose(value, (X**2).sum())
    np.testing.assert_allclose(grad, 2 * X)


def test_barrier_is_lowered_on_cpu_only():
    traced = jax.jit(jax.grad(lambda x: relu(x).sum())).trace(X)
    for platform, seams in (("cpu", True), ("tpu", False), ("cuda", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("optimization_barrier" in text) == seams, platform


def test_barrier_survives_compilation():
    """A chain with two consumers: without the seam each of them would compute it anew."""

    def f(x):
        y = relu(x * 3 + 1)
        return y @ y, y * 2

    compiled = jax.jit(f, compiler_options=compiler_options(make_mesh())).lower(X).compile()
    assert "opt-barrier" in compiled.as_text()


PROGRAM = """
import resource
import numpy as np
from gsto_jax.devices.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
took_effect = keep_freed_memory()
faults()
print(took_effect, first, faults())
"""


def test_keep_freed_memory():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    took_effect, before, after = result.stdout.split()
    if took_effect == "True":
        assert int(before) > 100
        assert int(after) < int(before) / 10
    else:
        assert not sys.platform.startswith("linux") or "musl" in sys.version
