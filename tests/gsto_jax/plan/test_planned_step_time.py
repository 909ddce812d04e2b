"""Estimated step times computed by hand, and plan files."""

import json

import pytest

from gsto_jax import UserError
from gsto_jax.plan.plan_file import plan_record, planned_seconds, write_plan
from gsto_jax.plan.step_cost import SLICE_EXCHANGE
from gsto_jax.plan.step_time import (
    INTERCONNECTS,
    Interconnect,
    PlannedStepTime,
    collective_time,
    estimate_step_time,
    network_time,
)
from gsto_jax.plan.tables import format_step_time
from gsto_jax.plan.topology import parse_topology
from tests.gsto_jax.plan.timed_plans import make_mesh, make_plan
from tests.gsto_jax.small_task import values

NO_LATENCY = Interconnect(bandwidth=1e9, latency=0.0, min_ring=16)


@pytest.mark.parametrize(
    "kind, grid, expected",
    [
        ("all-reduce", (2, 1), 2 * (1 / 2) * 8e9 / 1e9),
        ("all-reduce", (2, 2), 2 * (3 / 4) * 8e9 / 2e9),  # along both axes at once
        ("all-reduce", (16, 16), 2 * (255 / 256) * 8e9 / 4e9),  # in both directions
        ("all-reduce", (4, 16), 2 * (63 / 64) * 8e9 / 3e9),
        ("all-gather", (4, 4), (15 / 16) * 8e9 / 2e9),
        ("all-to-all", (4, 4), (15 / 16) * 8e9 / 2e9),
        ("reduce-scatter", (4, 4), 15 * 8e9 / 2e9),  # the result is a sixteenth
        ("collective-permute", (4, 4), 8.0),
        ("all-reduce", (1, 1), 0.0),
    ],
)
def test_bytes_over_links(kind, grid, expected):
    seconds = collective_time({kind: (5, int(8e9))}, grid, NO_LATENCY)
    assert seconds == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "kind, grid, hops",
    [
        ("all-reduce", (2, 2), 2 * (1 + 1)),
        ("all-reduce", (8, 8), 2 * (7 + 7)),
        ("all-reduce", (16, 16), 2 * (8 + 8)),  # half a ring is the farthest
        ("all-gather", (16, 8), 8 + 7),
        ("collective-permute", (8, 8), 1),
    ],
)
def test_hops(kind, grid, hops):
    interconnect = Interconnect(bandwidth=1e9, latency=2.0, min_ring=16)
    assert collective_time({kind: (3, 0)}, grid, interconnect) == 3 * hops * 2.0


def test_kinds_add_up_and_unknown_interconnects_give_none():
    one, two = {"all-reduce": (4, 10**9)}, {"all-gather": (2, 10**9)}
    interconnect = INTERCONNECTS["v5e"]
    parts = [collective_time(x, (4, 4), interconnect) for x in (one, two)]
    assert collective_time(one | two, (4, 4), interconnect) == pytest.approx(sum(parts))
    assert collective_time(one, (4, 4), None) is None
    assert collective_time(one, (1, 1), None) == 0.0
    assert collective_time({}, (4, 4), None) == 0.0
    # Four links of a chip, one way each, stay within the 1600 Gbit/s of Cloud's page.
    assert 4 * interconnect.bandwidth <= 1600e9 / 8


def test_the_longer_of_memory_and_compute_counts():
    time = estimate_step_time(make_plan(), "v5e:2x2")
    assert time.memory == pytest.approx(0.010)
    assert time.compute == pytest.approx(0.020)
    # 2 x 3/4 x 9 MB over two links, and 100 x 2 x 2 hops
    assert time.collectives == pytest.approx(13.5e6 / 90e9 + 400e-6)
    assert time.lower_bound == time.compute
    assert time.upper_bound == time.compute + time.collectives
    assert PlannedStepTime(1.0, 2.0, 5.0).lower_bound == 5.0
    assert PlannedStepTime(3.0, 2.0, 5.0).upper_bound == 8.0


@pytest.mark.parametrize(
    "chip, grid, expected",
    [
        ("v5p", (2, 2, 2), 2 * (7 / 8) * 8e9 / (3 * 90e9)),
        ("v5p", (4, 4, 4), 2 * (63 / 64) * 8e9 / (6 * 90e9)),  # a cube has rings
        ("v5p", (2, 4, 4), 2 * (31 / 32) * 8e9 / (3 * 90e9)),
        ("v6e", (8, 16), 2 * (127 / 128) * 8e9 / (3 * 90e9)),
        ("v4", (2, 2, 1), 2 * (3 / 4) * 8e9 / (2 * 45e9)),
        ("tpu7x", (2, 2, 1), 2 * (3 / 4) * 8e9 / (2 * 90e9)),  # four chips, eight devices
    ],
)
def test_links_of_other_chips(chip, grid, expected):
    seconds = collective_time({"all-reduce": (0, int(8e9))}, grid, INTERCONNECTS[chip])
    assert seconds == pytest.approx(expected)


def test_exchange_between_slices():
    """Two slices of v5e: 25 Gbit/s per chip, a fourth of 100 Gbit/s per host."""
    inside = {"all-reduce": (100, 9_000_000)}
    plan = make_plan(collectives=inside | {SLICE_EXCHANGE: (10, 31_250_000)})
    two = estimate_step_time(plan, "v5e:2x2*2")
    assert two.network == pytest.approx(31_250_000 / 3.125e9 + 10 * 50e-6)
    assert two.collectives == pytest.approx(13.5e6 / 90e9 + 400e-6 + two.network)
    assert two.upper_bound == pytest.approx(0.020 + two.collectives)
    four = network_time(plan.collectives, parse_topology("v5e:2x2*4"))
    assert four == pytest.approx(1.5 * 31_250_000 / 3.125e9 + 10 * 50e-6)
    halves = network_time(plan.collectives, parse_topology("tpu7x:2x2x1*2"))
    assert halves == pytest.approx(2 * 31_250_000 / 12.5e9 + 10 * 50e-6)


def test_gpus_and_unknown_chips():
    h100 = estimate_step_time(make_plan(collectives={}), "h100")
    assert h100.compute == pytest.approx(1e12 / 989e12)
    assert h100.memory == pytest.approx(8.19 / 3352)
    assert h100.collectives == 0.0
    assert estimate_step_time(make_plan(), "h100:2x8").collectives is None
    with pytest.raises(UserError, match="v9"):
        estimate_step_time(make_plan(), "v9:2x2")


def test_format_step_time():
    assert format_step_time(PlannedStepTime(0.010, 0.020, 0.005, 0.002)) == (
        "20.00 to 25.00 ms, estimated (memory traffic 10.00 ms, computation 20.00 ms, collectives "
        "5.00 ms, of which 2.00 ms between slices)"
    )
    assert format_step_time(PlannedStepTime(0.010, 0.020, None)).endswith(
        "; collectives are not modeled)"
    )
    assert format_step_time(PlannedStepTime(0.030, 0.020, 0.0)).startswith("at least 30.00 ms")


@pytest.fixture
def saved_plan(tmp_path):
    """Returns the path of a plan of 8 images per step, and its configuration."""
    config, path = values(), tmp_path / "plans" / "plan.json"
    config["train"]["batch_size"] = 8
    plans = [make_plan(), make_plan(step="eval")]
    write_plan(path, plan_record(config, plans, "v5e:2x2", make_mesh()))
    return path, config


def test_planned_seconds(saved_plan):
    path, config = saved_plan
    assert planned_seconds(path, config, make_mesh()) == pytest.approx(0.020)
    step = json.loads(path.read_text())["steps"]["train"]
    assert step["collectives"] == {"all-reduce": {"count": 100, "bytes": 9_000_000}}
    assert step["seconds"]["upper_bound"] == pytest.approx(0.020 + 0.00055)
    config["optim"]["learning_rate"] *= 2  # does not change the time
    assert planned_seconds(path, config, make_mesh()) == pytest.approx(0.020)
    assert [x.name for x in path.parent.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda c: c["train"].update(batch_size=16), "batch_size is 8"),
        (lambda c: c["model"]["hrnet"].update(gfm=False), "gfm is True"),
        (lambda c: c["data"].update(crop=[32, 32]), "crop is"),
    ],
)
def test_plans_of_other_steps(saved_plan, change, field):
    path, config = saved_plan
    change(config)
    with pytest.raises(UserError, match=field):
        planned_seconds(path, config, make_mesh())


def test_plans_of_other_chips_and_invalid_files(saved_plan, tmp_path):
    path, config = saved_plan
    with pytest.raises(UserError, match="device_kind"):
        planned_seconds(path, config, make_mesh("cpu"))
    with pytest.raises(UserError, match="num_chips is 4"):
        planned_seconds(path, config, make_mesh(size=16))
    with pytest.raises(UserError, match="plan "):
        planned_seconds(tmp_path / "none.json", config, make_mesh())
    nested = "[" * 200_000
    for text in (
        "{",
        "[]",
        "{}",
        nested,
        *(
            path.read_text().replace('"lower_bound": 0.02', f'"lower_bound": {x}')
            for x in ("null", "9" * 400)
        ),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="plan "):
            planned_seconds(path, config, make_mesh())
    with pytest.raises(UserError, match="plan "):
        write_plan(path / "below" / "plan.json", {})
