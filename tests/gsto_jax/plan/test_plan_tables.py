"""Tables of planned steps."""

from dataclasses import replace

from gsto_jax.plan.speed import PlannedSpeed
from gsto_jax.plan.step_cost import Cost, KernelCalls
from gsto_jax.plan.step_time import PlannedStepTime
from gsto_jax.plan.tables import compare_table, plan_table, summary_table
from tests.gsto_jax.plan.small_plans import make_plan


def cells(table):
    columns = [list(column.cells) for column in table.columns]
    return {name: row for name, *row in zip(*columns, strict=True)}


def test_plan_table():
    table = plan_table(make_plan(), "a step")
    assert [str(column.header) for column in table.columns] == [
        *("on one chip", "XLA\nMcycles", "kernel\nMcycles", "GB\naccessed", "details")
    ]
    rows = cells(table)
    assert rows["step"] == ["4.000", "1.000", "8.000", "5.00 GFLOPs"]
    assert rows["step, per image"] == ["2.000", "0.500", "4.000", ""]
    assert rows["head"] == ["4.000", "1.000", "3.000", "50% in conv"]
    assert rows["all-reduce"][-1] == "3 calls, 0.004 GB"
    assert "7 calls of Pallas kernels" in table.caption and "not times" in table.caption
    calls = {"gates": KernelCalls(3, 2 * 10**9, 10**9), "loss": KernelCalls(1, 10**9)}
    rows = cells(plan_table(make_plan(kernels=calls), "a step"))
    assert rows["kernel gates"][-1] == "3 calls, 2.000 GB, layout changes 1.000 GB"
    assert rows["kernel loss"][-1] == "1 calls, 1.000 GB"
    bare = plan_table(make_plan(cost=Cost(bytes_accessed=3e9), kernels={}), "a step", "device")
    assert [str(column.header) for column in bare.columns] == [
        *("on one device", "GB\naccessed", "details")
    ]
    assert "Cycles are not estimated" in bare.caption


def test_summary_table():
    speed = PlannedSpeed((744.2, 778.3), (0.0512, 0.0533), 197e12, 4)
    table = summary_table(
        make_plan(queued_bytes=2**29),
        PlannedStepTime(0.010, 0.020, 0.005),
        speed,
        memory=2**34,
        title="a step",
        extra_rows={"input": "190 images/s"},
    )
    rows = {name: row[0] for name, row in cells(table).items()}
    assert rows["memory of a chip"].startswith("1.50 of 16 GiB: fits")
    assert rows["time of a step"].startswith("20.00 to 25.00 ms")
    assert rows["images per second"] == "744 to 778 on all chips"
    assert rows["share of the peak"].startswith("5.12 to 5.33 % of 197 TFLOP/s")
    assert rows["input"] == "190 images/s"
    unknown = replace(speed, images_per_second=(5.0, 5.0), peak_fraction=None)
    time = PlannedStepTime(0.010, 0.020, None)
    bare = summary_table(make_plan(), time, unknown, memory=2**34, title="", device="device")
    rows = cells(bare)
    assert rows["images per second"] == ["5 on all devices"] and "share of the peak" not in rows


def test_compare_table():
    other = make_plan(
        batch_size=4, bytes_accessed=4e9, collectives={}, cost=Cost(6e6, 0, 3e9), layers=()
    )
    rows = cells(compare_table(make_plan(), other, ("one", "two"), "steps"))
    assert rows["batch size"] == ["2", "4", "2.00"]
    assert rows["GB accessed"] == ["8.00", "4.00", "0.50"]
    assert rows["GB accessed per image"] == ["4.00", "1.00", "0.25"]
    assert rows["XLA Mcycles"] == ["4.00", "6.00", "1.50"]
    assert rows["kernel Mcycles"] == ["1.00", "0.00", "0.00"]
    assert rows["all-reduce calls"] == ["3", "0", "0.00"]
    assert rows["head, Mcycles"] == ["5.000", "0.000", "0.00"]
