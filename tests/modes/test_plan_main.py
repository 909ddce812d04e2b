"""`--mode=plan`, without compilations."""

import json
from types import SimpleNamespace

import pytest

from configs import quickstart
from configs.loading import plain_values
from gsto_jax import UserError
from gsto_jax.plan.plan_file import planned_seconds
from modes import plan as plan_mode
from tests.gsto_jax.plan.timed_plans import make_mesh, make_plan


@pytest.fixture
def compiled(monkeypatch):
    """Replaces the compilation; returns the compiled steps and sizes."""
    calls = []
    target = SimpleNamespace(mesh=make_mesh(), memory=2**34, platform="tpu")
    monkeypatch.setattr(plan_mode.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(plan_mode, "compile_target", lambda topology: target)

    def plan_step(task, target, batch_size, image_size, step):
        calls.append((step, image_size))
        return make_plan(step=step, batch_size=batch_size // 4)

    monkeypatch.setattr(plan_mode, "plan_step", plan_step)
    return calls


def arguments(**flags):
    defaults = {"compare": None, "topology": "v5e:2x2", "plan_json": None}
    defaults |= {"image_size": None, "input_json": None, "config": quickstart.get_config()}
    return SimpleNamespace(**defaults | flags)


def test_the_plan_is_printed_and_written(compiled, tmp_path, capsys):
    path = tmp_path / "plan.json"
    args = arguments(plan_json=str(path))
    plan_mode.run(args)
    output = capsys.readouterr().out
    assert output.count("20.00 to 20.55 ms, estimated") == 2
    assert f"plan        {path}" in output
    assert compiled == [("train", (96, 128)), ("eval", (128, 256))]
    assert planned_seconds(path, plain_values(args.config), make_mesh()) == pytest.approx(0.020)


def test_evaluation_has_its_own_size(compiled, tmp_path, capsys):
    plan_mode.run(arguments(image_size="200x300"))
    assert compiled[1] == ("eval", (224, 320))
    args = arguments(image_size="128x256")
    args.config.eval.flip = True
    plan_mode.run(args)
    assert compiled[3] == ("eval_window", (128, 256))
    args = arguments()
    args.config.data.update(source="folder", root=str(tmp_path))  # which has no images
    args.config.data.update(images="{split}/*.jpg", labels="{split}/*.png")
    plan_mode.run(args)
    assert compiled[5] == ("eval", (96, 128))
    assert "--image_size" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["", "x", "200", "0x100", "100x-1", "1x2x3", "9999999x9"])
def test_invalid_image_sizes(size):
    with pytest.raises(UserError, match="--image_size"):
        plan_mode.parse_size(size)


def test_measured_input(compiled, tmp_path, capsys):
    path = tmp_path / "input.json"
    record = {"images_per_second": 50.0, "images_per_second_per_core": 12.5, "cores": 4}
    path.write_text(json.dumps(record | {"crop": [96, 128]}))
    plan_mode.run(arguments(input_json=str(path)))
    output = capsys.readouterr().out.replace("│", " ")
    assert "12.5 images/s per core" in " ".join(output.split())
    path.write_text(json.dumps(record | {"crop": [512, 1024]}))
    with pytest.raises(UserError, match="--input_json"):
        plan_mode.run(arguments(input_json=str(path)))
