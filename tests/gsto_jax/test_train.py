"""The run: one device equals four, it learns, its checkpoint returns, and its faults are named."""

import importlib
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import UserError, checkpoint
from gsto_jax.config import Config
from gsto_jax.evaluate import evaluate
from gsto_jax.parallel import check_batch, make_mesh, put_batch
from gsto_jax.task import Task, TrainState, initial_state, normalize
from gsto_jax.train import fit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def values(**model):
    config = importlib.import_module("configs.quickstart").get_config()
    plain = json.loads(config.to_json())
    plain["model"] |= model
    plain["run"]["log_every"] = 2
    plain["eval"]["batch_size"] = 4
    return plain


def make_task(steps, **model):
    settings = Config.from_dict({k: v for k, v in values(**model).items() if k != "data"})
    return Task(settings, 3, 255, MEAN, STD, steps)


def batches(count=4, side=64):
    """The same few pictures for ever: class by brightness, a border of ignored pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, (count, side // 16, side // 16))
    label = coarse.repeat(16, 1).repeat(16, 2).astype(np.uint8)
    image = (60 + 80 * label[..., None] + rng.integers(0, 40, (*label.shape, 3))).astype(np.uint8)
    label[:, :2] = 255
    batch = {
        "image": image,
        "label": label,
        "size": np.full((count, 2), side, np.int32),
        "index": np.arange(count, dtype=np.int32),
        "mask": np.ones(count, bool),
    }
    while True:
        yield batch


def test_one_device_equals_four(x64):
    task = make_task(3, dtype="float64")
    states, losses = [], []
    for devices in (jax.devices()[:1], jax.devices()[:4]):
        mesh = make_mesh(devices)
        assert mesh.size == len(devices)
        seen = []
        start = initial_state(task, mesh)
        state = fit(task, start, batches(), mesh, seen.append)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start.params)), "not donated"
        states.append(jax.device_get(state))
        losses.append([progress.scalars["loss"] for progress in seen])
        spread = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)}
        assert spread == {len(devices)}
    np.testing.assert_allclose(*losses, rtol=1e-9)
    for one, four in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def trained():
    """A short run on one device: task, state, what was reported."""
    task, mesh, seen = make_task(30), make_mesh(jax.devices()[:1]), []
    return task, mesh, fit(task, initial_state(task, mesh), batches(), mesh, seen.append), seen


def test_a_run_learns_and_reports(trained):
    task, _, state, seen = trained
    assert int(state.step) == 30
    assert [p.step for p in seen] == [1, *range(2, 31, 2)]
    assert seen[-1].eta == 0
    assert set(seen[0].scalars) == {
        "loss",
        "loss/stage2",
        "loss/stage3",
        "loss/stage4",
        "learning_rate",
    }
    rates = [p.scalars["learning_rate"] for p in seen]
    base = task.config.optim.learning_rate
    expected = [base * (1 - (p.step - 1) / 30) ** 0.9 for p in seen]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert seen[-1].scalars["loss"] < 0.5 * seen[0].scalars["loss"]


def test_evaluation_counts_what_the_mask_lets_through(trained):
    task, mesh, state, _ = trained
    batch = next(batches())
    masked = batch | {"mask": np.array([True, True, True, False])}
    seen = []
    result = evaluate(task, state.variables, [batch, masked], mesh, lambda b, p: seen.append(p))
    predictions = seen[0]
    assert predictions.shape == (4, 64, 64)
    expected = np.zeros((3, 3), np.int64)
    for labels, predicted in ((batch["label"], predictions), (batch["label"][:3], predictions[:3])):
        counted = labels != 255
        np.add.at(expected, (labels[counted], predicted[counted]), 1)
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.confusion.sum() == 7 * 62 * 64


def test_padding_is_zero_after_normalisation():
    task = make_task(1)
    image = np.full((2, 4, 6, 3), 128, np.uint8)
    size = np.array([[4, 6], [3, 2]], np.int32)
    x = np.asarray(normalize(task, jnp.asarray(image), jnp.asarray(size)))
    inside = (np.float32(128 / 255) - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(x[0], np.broadcast_to(inside, (4, 6, 3)), rtol=1e-5)
    np.testing.assert_allclose(x[1, :3, :2], np.broadcast_to(inside, (3, 2, 3)), rtol=1e-5)
    assert not x[1, 3:].any()
    assert not x[1, :, 2:].any()


def test_checkpoint_returns_bit_for_bit(trained, tmp_path):
    task, mesh, state, _ = trained
    saved = checkpoint.save(tmp_path, state, values())
    assert saved == tmp_path / "checkpoints" / "30"
    found, config = checkpoint.newest(tmp_path)
    assert found == saved
    assert config == values()
    back = checkpoint.load_state(found, task, mesh)
    assert isinstance(back, TrainState)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), jax.device_get(state))

    four = checkpoint.load_state(found, task, make_mesh(jax.devices()[:4]))
    assert len(four.step.sharding.device_set) == 4

    other = make_task(30, gfm=False, gtm=("none",) * 3)
    with pytest.raises(UserError, match="another network"):
        checkpoint.load_state(found, other, mesh)
    with pytest.raises(UserError, match="another network"):
        checkpoint.load_state(found, replace(task, num_classes=5), mesh)


def test_workdirs(tmp_path):
    made = checkpoint.new_workdir(str(tmp_path / "a" / "b"), "name")
    assert made.is_dir()
    (made / "checkpoints").mkdir()
    with pytest.raises(UserError, match="already holds a run"):
        checkpoint.new_workdir(str(made), "name")
    with pytest.raises(UserError, match="is empty"):
        checkpoint.newest(made)
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.existing_workdir(str(tmp_path))
    with pytest.raises(UserError, match="--workdir"):
        checkpoint.existing_workdir(None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.new_workdir(str(tmp_path / "file" / "run"), "name")


def test_batches_must_divide_over_the_devices():
    mesh = make_mesh(jax.devices()[:4])
    check_batch(8, mesh, "train.batch_size")
    with pytest.raises(UserError, match=r"train\.batch_size is 6.*4 devices.*such as 4 or 8"):
        check_batch(6, mesh, "train.batch_size")
    with pytest.raises(UserError, match=r"such as 4$"):
        check_batch(2, mesh, "train.batch_size")
    split = put_batch({"image": np.arange(8)}, mesh)["image"]
    assert [int(s.data[0]) for s in split.addressable_shards] == [0, 2, 4, 6]
