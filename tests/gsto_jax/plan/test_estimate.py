"""The time of a step on paper, by hand; plans as files, and what a run does with them."""

import importlib
import json
from types import SimpleNamespace

import pytest

from gsto_jax import UserError
from gsto_jax.plan import record
from gsto_jax.plan.estimate import LINKS, Estimate, Links, collectives_seconds, estimate
from gsto_jax.plan.step_plan import Cost, Plan
from gsto_jax.plan.tables import time_line
from modes import plan as plan_mode
from tests.gsto_jax.small_task import values

FLAT = Links(bandwidth=1e9, latency=0.0, ring=16)


def a_plan(**changes):
    found = {
        "step": "train",
        "batch": 2,
        "peak": 2**30,
        "flops": 1e12,
        "bytes": 8.19e9,
        "cost": Cost(20e6, 10e6, 8.19e9),
        "looped": (0, 0),
        "collectives": {"all-reduce": (100, 9_000_000)},
        "layers": (),
        "calls": {},
        "unscheduled": 0,
        "seconds": 60.0,
    }
    return Plan(**found | changes)


@pytest.mark.parametrize(
    "kind, sides, expected",
    [
        ("all-reduce", (2, 1), 2 * (1 / 2) * 8e9 / 1e9),
        ("all-reduce", (2, 2), 2 * (3 / 4) * 8e9 / 2e9),  # along both sides at once
        ("all-reduce", (16, 16), 2 * (255 / 256) * 8e9 / 4e9),  # both ways round
        ("all-reduce", (4, 16), 2 * (63 / 64) * 8e9 / 3e9),
        ("all-gather", (4, 4), (15 / 16) * 8e9 / 2e9),
        ("all-to-all", (4, 4), (15 / 16) * 8e9 / 2e9),
        ("reduce-scatter", (4, 4), 15 * 8e9 / 2e9),  # the result is a sixteenth
        ("collective-permute", (4, 4), 8.0),
        ("all-reduce", (1, 1), 0.0),
    ],
)
def test_bytes_over_links(kind, sides, expected):
    found = collectives_seconds({kind: (5, int(8e9))}, sides, FLAT)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "kind, sides, hops",
    [
        ("all-reduce", (2, 2), 2 * (1 + 1)),
        ("all-reduce", (8, 8), 2 * (7 + 7)),
        ("all-reduce", (16, 16), 2 * (8 + 8)),  # half round a ring is the farthest
        ("all-gather", (16, 8), 8 + 7),
        ("collective-permute", (8, 8), 1),
    ],
)
def test_hops(kind, sides, hops):
    links = Links(bandwidth=1e9, latency=2.0, ring=16)
    assert collectives_seconds({kind: (3, 0)}, sides, links) == 3 * hops * 2.0


def test_kinds_add_up_and_unknown_links_are_not_guessed():
    one, two = {"all-reduce": (4, 10**9)}, {"all-gather": (2, 10**9)}
    links = LINKS["v5e"]
    parts = [collectives_seconds(x, (4, 4), links) for x in (one, two)]
    assert collectives_seconds(one | two, (4, 4), links) == pytest.approx(sum(parts))
    assert collectives_seconds(one, (4, 4), None) is None
    assert collectives_seconds(one, (1, 1), None) == 0.0
    assert collectives_seconds({}, (4, 4), None) == 0.0
    # Four links of a chip, one way each, stay within the 1600 Gbit/s of Cloud's page.
    assert 4 * links.bandwidth <= 1600e9 / 8


def test_the_longest_counts():
    found = estimate(a_plan(), "v5e:2x2")
    assert found.memory == pytest.approx(0.010)
    assert found.cores == pytest.approx(0.020)
    # 2 x 3/4 x 9 MB over two links, and 100 x 2 x 2 hops
    assert found.collectives == pytest.approx(13.5e6 / 90e9 + 400e-6)
    assert found.least == found.cores
    assert found.most == found.cores + found.collectives
    assert Estimate(1.0, 2.0, 5.0).least == 5.0
    assert Estimate(3.0, 2.0, 5.0).most == 8.0


def test_other_chips():
    v4 = estimate(a_plan(), "v5p:2x2x1")
    assert v4.collectives is None
    assert v4.least == v4.most == max(v4.memory, v4.cores)
    h100 = estimate(a_plan(collectives={}), "h100")
    assert h100.cores == pytest.approx(1e12 / 989e12)
    assert h100.memory == pytest.approx(8.19 / 3352)
    assert h100.collectives == 0.0
    assert estimate(a_plan(), "h100:2x8").collectives is None
    with pytest.raises(UserError, match="v9"):
        estimate(a_plan(), "v9:2x2")


def test_the_time_in_a_line():
    assert time_line(Estimate(0.010, 0.020, 0.005)) == (
        "time        20.00 to 25.00 ms on paper (memory 10.00 ms, cores 20.00 ms, collectives "
        "5.00 ms)"
    )
    assert time_line(Estimate(0.010, 0.020, None)).endswith("; collectives are not modeled)")
    assert time_line(Estimate(0.030, 0.020, 0.0)).startswith("time        at least 30.00 ms")


def chips(kind="TPU v5 lite", size=4):
    device = SimpleNamespace(device_kind=kind)
    flat = SimpleNamespace(flat=[device])
    return SimpleNamespace(size=size, devices=flat, shape={"data": size})


@pytest.fixture
def written(tmp_path):
    """A plan of a step of 8 images, and the configuration that it is of."""
    config, path = values(), tmp_path / "plans" / "plan.json"
    config["train"]["batch_size"] = 8
    plans = [a_plan(), a_plan(step="eval")]
    found = record.record(config, plans, "v5e:2x2", SimpleNamespace(mesh=chips()))
    record.write(path, found)
    return path, config


def test_a_run_reads_the_plan_of_its_step(written):
    path, config = written
    assert record.planned_seconds(path, config, chips()) == pytest.approx(0.020)
    step = json.loads(path.read_text())["steps"]["train"]
    assert step["collectives"] == {"all-reduce": [100, 9_000_000]}
    assert step["seconds"]["most"] == pytest.approx(0.020 + 0.00055)
    config["optim"]["learning_rate"] *= 2  # takes no time
    assert record.planned_seconds(path, config, chips()) == pytest.approx(0.020)
    assert [x.name for x in path.parent.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda c: c["train"].update(batch_size=16), "batch is 8"),
        (lambda c: c["model"]["hrnet"].update(gfm=False), "gfm is True"),
        (lambda c: c["data"].update(crop=[32, 32]), "crop is"),
    ],
)
def test_the_plan_of_another_step_is_refused(written, change, field):
    path, config = written
    change(config)
    with pytest.raises(UserError, match=field):
        record.planned_seconds(path, config, chips())


def test_plans_of_other_chips_and_what_is_no_plan(written, tmp_path):
    path, config = written
    with pytest.raises(UserError, match="device_kind"):
        record.planned_seconds(path, config, chips("cpu"))
    with pytest.raises(UserError, match="chips is 4"):
        record.planned_seconds(path, config, chips(size=16))
    with pytest.raises(UserError, match="--plan_json"):
        record.planned_seconds(tmp_path / "none.json", config, chips())
    nested = "[" * 200_000
    for text in (
        "{",
        "[]",
        "{}",
        nested,
        *(path.read_text().replace('"least": 0.02', f'"least": {x}') for x in ("null", "9" * 400)),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="--plan_json"):
            record.planned_seconds(path, config, chips())
    with pytest.raises(UserError, match="--plan_json"):
        record.write(path / "below" / "plan.json", {})


def test_the_mode_writes_what_a_run_reads(tmp_path, monkeypatch, capsys):
    target = SimpleNamespace(mesh=chips(), memory=2**34, platform="tpu")
    monkeypatch.setattr(plan_mode.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(plan_mode, "machine", lambda topology: target)

    def planned(task, machine, batch, size, step):
        return a_plan(step=step, batch=batch // 4)

    monkeypatch.setattr(plan_mode, "plan", planned)
    config, path = (
        importlib.import_module("configs.quickstart").get_config(),
        tmp_path / "plan.json",
    )
    args = SimpleNamespace(config=config, compare=None, topology="v5e:2x2", plan_json=str(path))
    plan_mode.run(args)
    shown = capsys.readouterr().out
    assert shown.count("time        20.00 to 20.55 ms on paper") == 2
    assert f"plan        {path}" in shown
    assert record.planned_seconds(path, values(), chips()) == pytest.approx(0.020)
