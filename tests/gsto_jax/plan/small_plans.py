"""A planned step with known costs."""

from gsto_jax.plan.step_cost import Cost, KernelCalls, LayerCost, StepPlan


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
