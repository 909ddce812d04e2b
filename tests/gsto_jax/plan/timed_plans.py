"""A planned step whose time is computed by hand, and the mesh that it is for."""

from types import SimpleNamespace

from gsto_jax.plan.step_cost import Cost, StepPlan


def make_plan(**changes):
    values = {
        "step": "train",
        "batch_size": 2,
        "peak_memory": 2**30,
        "flops": 1e12,
        "bytes_accessed": 8.19e9,
        "cost": Cost(20e6, 10e6, 9e9, 8.19e9),
        "loop_flops": 0,
        "loop_bytes": 0,
        "collectives": {"all-reduce": (100, 9_000_000)},
        "layers": (),
        "kernels": {},
        "unscheduled_calls": 0,
        "compile_seconds": 60.0,
    }
    return StepPlan(**values | changes)


def make_mesh(kind="TPU v5 lite", size=4):
    device = SimpleNamespace(device_kind=kind, process_index=0)
    flat = SimpleNamespace(flat=[device])
    return SimpleNamespace(size=size, devices=flat, shape={"data": size})
