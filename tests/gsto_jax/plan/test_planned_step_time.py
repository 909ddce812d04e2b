"""Estimated step times computed by hand, and plan files."""

import importlib
import json
from types import SimpleNamespace

import pytest

from gsto_jax import UserError
from gsto_jax.plan.plan_file import plan_record, planned_seconds, write_plan
from gsto_jax.plan.step_cost import Cost, StepPlan
from gsto_jax.plan.step_time import (
    INTERCONNECTS,
    Interconnect,
    StepTime,
    collective_time,
    estimate_step_time,
)
from gsto_jax.plan.tables import format_step_time
from modes import plan as plan_mode
from tests.gsto_jax.small_task import values

NO_LATENCY = Interconnect(bandwidth=1e9, latency=0.0, min_ring=16)


def make_plan(**changes):
    values = {
        "step": "train",
        "batch_size": 2,
        "peak_memory": 2**30,
        "flops": 1e12,
        "bytes_accessed": 8.19e9,
        "cost": Cost(20e6, 10e6, 8.19e9),
        "loop_flops": 0,
        "loop_bytes": 0,
        "collectives": {"all-reduce": (100, 9_000_000)},
        "layers": (),
        "kernels": {},
        "unscheduled_calls": 0,
        "compile_seconds": 60.0,
    }
    return StepPlan(**values | changes)


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
    assert StepTime(1.0, 2.0, 5.0).lower_bound == 5.0
    assert StepTime(3.0, 2.0, 5.0).upper_bound == 8.0


def test_other_make_mesh():
    v4 = estimate_step_time(make_plan(), "v5p:2x2x1")
    assert v4.collectives is None
    assert v4.lower_bound == v4.upper_bound == max(v4.memory, v4.compute)
    h100 = estimate_step_time(make_plan(collectives={}), "h100")
    assert h100.compute == pytest.approx(1e12 / 989e12)
    assert h100.memory == pytest.approx(8.19 / 3352)
    assert h100.collectives == 0.0
    assert estimate_step_time(make_plan(), "h100:2x8").collectives is None
    with pytest.raises(UserError, match="v9"):
        estimate_step_time(make_plan(), "v9:2x2")


def test_format_step_time():
    assert format_step_time(StepTime(0.010, 0.020, 0.005)) == (
        "step time   20.00 to 25.00 ms, estimated (memory 10.00 ms, compute 20.00 ms, collectives "
        "5.00 ms)"
    )
    assert format_step_time(StepTime(0.010, 0.020, None)).endswith("; collectives are not modeled)")
    assert format_step_time(StepTime(0.030, 0.020, 0.0)).startswith("step time   at least 30.00 ms")


def make_mesh(kind="TPU v5 lite", size=4):
    device = SimpleNamespace(device_kind=kind)
    flat = SimpleNamespace(flat=[device])
    return SimpleNamespace(size=size, devices=flat, shape={"data": size})


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


def test_the_plan_mode_writes_a_plan_file(tmp_path, monkeypatch, capsys):
    target = SimpleNamespace(mesh=make_mesh(), memory=2**34, platform="tpu")
    monkeypatch.setattr(plan_mode.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(plan_mode, "compile_target", lambda topology: target)

    def plan_step(task, target, batch_size, image_size, step):
        return make_plan(step=step, batch_size=batch_size // 4)

    monkeypatch.setattr(plan_mode, "plan_step", plan_step)
    config, path = (
        importlib.import_module("configs.quickstart").get_config(),
        tmp_path / "plan.json",
    )
    args = SimpleNamespace(config=config, compare=None, topology="v5e:2x2", plan_json=str(path))
    plan_mode.run(args)
    output = capsys.readouterr().out
    assert output.count("step time   20.00 to 20.55 ms, estimated") == 2
    assert f"plan        {path}" in output
    assert planned_seconds(path, values(), make_mesh()) == pytest.approx(0.020)
