"""Speed, input and passes of planned steps, computed by hand."""

import json
import math
from types import SimpleNamespace

import pytest

from gsto_jax import UserError
from gsto_jax.models.counts import layer_calls
from gsto_jax.plan.eval_passes import eval_passes
from gsto_jax.plan.speed import InputMeasurement, PlannedSpeed, describe_input, planned_speed
from gsto_jax.plan.step_time import PlannedStepTime
from gsto_jax.training.throughput import train_macs
from tests.gsto_jax.small_task import make_task, values


def make_mesh(kind, hosts, devices_per_host):
    devices = [
        SimpleNamespace(device_kind=kind, process_index=host)
        for host in range(hosts)
        for _ in range(devices_per_host)
    ]
    size = len(devices)
    flat = SimpleNamespace(flat=devices)
    return SimpleNamespace(size=size, devices=flat, shape={"data": size})


def test_planned_speed():
    task, size = make_task(4), (32, 64)
    mesh = make_mesh("TPU v5 lite", hosts=2, devices_per_host=4)
    plan = SimpleNamespace(step="train", batch_size=3)
    speed = planned_speed(task, plan, PlannedStepTime(0.010, 0.020, 0.005), mesh, size)
    assert speed.images_per_second == pytest.approx((24 / 0.025, 24 / 0.020))
    assert (speed.peak_flops, speed.num_hosts) == (197e12, 2)
    flops = 2 * train_macs(layer_calls(task.model, size))
    assert speed.peak_fraction == pytest.approx(
        (3 * flops / 0.025 / 197e12, 3 * flops / 0.020 / 197e12)
    )
    windows = SimpleNamespace(step="eval_window", batch_size=3)
    speed = planned_speed(task, windows, PlannedStepTime(0.010, 0.020, 0.0), mesh, size, passes=4)
    assert speed.images_per_second == pytest.approx((24 / 0.080,) * 2)
    forward = 2 * sum(call.count.macs for call in layer_calls(task.model, size))
    assert forward < flops / 2
    assert speed.peak_fraction == pytest.approx((3 * forward / 0.020 / 197e12,) * 2)
    unknown = planned_speed(
        task, plan, PlannedStepTime(1.0, 1.0, None), make_mesh("cpu", 1, 1), size
    )
    assert unknown.peak_fraction is None and unknown.images_per_second == (3.0, 3.0)


SPEED = PlannedSpeed((744.0, 800.0), None, None, 4)


def test_input_need():
    assert describe_input(SPEED, None).startswith("200 images/s for each of 4 hosts. Measure")
    slow = InputMeasurement(50.0, 12.5, 4, (96, 128))
    text = describe_input(SPEED, slow)
    assert "200 images/s for each of 4 hosts, 16 cores at the measured 12.5 images/s" in text
    assert text.endswith("with 4 cores delivers 50: 25% of the need")
    fast = InputMeasurement(240.0, 12.5, 24, (96, 128))
    assert describe_input(SPEED, fast).endswith("with 24 cores delivers 240: enough")
    single = PlannedSpeed((10.0, 10.0), None, None, 1)
    assert describe_input(single, None, "persons").startswith("10 persons/s for the only host")


RECORD = {
    "images_per_second": 50.0,
    "cores": 4,
    "workers": 4,
    "images_per_second_per_core": 12.5,
    "config": "quickstart",
    "crop": [96, 128],
}


def test_measurements(tmp_path):
    path = tmp_path / "input.json"
    path.write_text(json.dumps(RECORD))
    measurement = InputMeasurement.read(str(path), "--input_json")
    assert measurement == InputMeasurement(50.0, 12.5, 4, (96, 128))
    measurement.check_crop((96, 128), "--input_json")
    with pytest.raises(UserError, match="--input_json"):
        measurement.check_crop((512, 1024), "--input_json")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "{", "1", '"cores"', "[" * 200_000),
        *(
            json.dumps(RECORD | change)
            for change in (
                {"cores": 0},
                {"images_per_second": -1},
                {"images_per_second_per_core": "many"},
                {"images_per_second": math.inf},
                {"crop": 96},
            )
        ),
    ],
)
def test_invalid_measurements(tmp_path, text):
    path = tmp_path / "input.json"
    path.write_text(text)
    with pytest.raises(UserError, match="--input_json"):
        InputMeasurement.read(str(path), "--input_json")
    with pytest.raises(UserError, match="--input_json"):
        InputMeasurement.read(str(tmp_path / "none.json"), "--input_json")


def test_passes_of_an_evaluation_image():
    config = values()
    single = eval_passes(config, (100, 200))
    assert (single.step, single.size, single.passes) == ("eval", (128, 224), 1)
    config["eval"]["flip"] = True
    flipped = eval_passes(config, (128, 256))
    assert (flipped.step, flipped.size, flipped.passes) == ("eval_window", (128, 256), 2)
    config["eval"]["scales"] = [0.5, 1.0, 2.0]
    scaled = eval_passes(config, (128, 256))
    assert scaled.size == (256, 512)
    assert scaled.passes == pytest.approx(2 * (1 / 16 + 1 / 4 + 1))
    config["eval"] |= {"scales": [1.0], "window": "slide", "crop": [128, 128], "stride": 0.5}
    sliding = eval_passes(config, (128, 256))
    assert (sliding.size, sliding.passes) == ((128, 128), 2 * 3)


def test_passes_of_a_pose():
    config = values() | {"task": "pose"}
    config["eval"]["flip"] = True
    passes = eval_passes(config, (0, 0))
    assert (passes.step, passes.size, passes.passes) == ("eval", (96, 128), 2)
