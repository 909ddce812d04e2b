"""Train step and loop: device counts, learning, resuming, and errors."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.devices.mesh import check_batch_size, make_mesh, put_batch, round_up_batch_size
from gsto_jax.errors import TrainingError
from gsto_jax.runs.checkpoint import Checkpoints, load_latest
from gsto_jax.segmentation.evaluate import evaluate
from gsto_jax.training.loop import Hooks, fit
from gsto_jax.training.task import initial_state, normalize
from gsto_jax.training.train_step import train_step
from tests.gsto_jax.small_task import FAST, GATED, MEAN, STD, batches, make_task, values


@pytest.mark.slow
def test_one_device_equals_four(x64):
    task = make_task(3, **FAST, dtype="float64")
    states, losses = [], []
    for devices in (jax.devices()[:1], jax.devices()[:4]):
        mesh = make_mesh(devices)
        assert mesh.size == len(devices)
        reports = []
        start = initial_state(task, mesh)
        state = fit(task, start, batches(), mesh, Hooks(reports.append))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start.params)), "not donated"
        states.append(jax.device_get(state))
        losses.append([report.metrics["loss"] for report in reports])
        spread = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)}
        assert spread == {len(devices)}
    np.testing.assert_allclose(*losses, rtol=1e-9)
    for one, four in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def trained():
    """A short run on one device: task, mesh, state, reports."""
    task = make_task(30, **GATED)
    mesh, reports = make_mesh(jax.devices()[:1]), []
    return (
        task,
        mesh,
        fit(task, initial_state(task, mesh), batches(), mesh, Hooks(reports.append)),
        reports,
    )


def test_a_run_learns_and_reports(trained):
    task, _, state, reports = trained
    assert int(state.step) == 30
    assert [p.step for p in reports] == [1, *range(2, 31, 2)]
    assert reports[-1].eta == 0
    assert set(reports[0].metrics) == {
        "loss",
        "loss/stage3",
        "loss/context",
        "loss/stage4",
        "learning_rate",
        "gradient_norm",
    }
    assert all(0 <= p.input_wait <= 1 for p in reports)
    rates = [p.metrics["learning_rate"] for p in reports]
    base = task.config.optim.learning_rate
    expected = [base * (1 - (p.step - 1) / 30) ** 0.9 for p in reports]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert reports[-1].metrics["loss"] < 0.5 * reports[0].metrics["loss"]


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run(trained, tmp_path):
    """Bit for bit, through a checkpoint; programs are killed in tests/modes/test_resume.py."""
    _, mesh, whole, reports = trained
    config = values(**GATED)
    part = make_task(30, {"run": {"stop_at": 13}}, **GATED)
    with Checkpoints(tmp_path) as checkpoints:
        hooks = Hooks(save=lambda state: checkpoints.save(state, {"config": config}))
        fit(part, initial_state(part, mesh), batches(), mesh, hooks)
    task, losses = make_task(30, **GATED), []
    actual = load_latest(tmp_path, task, mesh)
    assert actual.step == 13
    hooks = Hooks(lambda report: losses.append((report.step, report.metrics["loss"])))
    state = fit(task, actual.state, batches(), mesh, hooks)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(whole))
    assert losses[1:] == [(p.step, p.metrics["loss"]) for p in reports if p.step > 14]


class OneSize(list):
    """Batches whose images fill their padded shape."""

    @property
    def sizes(self):
        return {batch["image"].shape[1:3]: [batch["image"].shape[1:3]] for batch in self}


def test_evaluation_respects_the_mask(trained):
    task, mesh, state, _ = trained
    batch = next(batches())
    masked = batch | {"mask": np.array([True, True, True, False])}
    outputs = []
    result = evaluate(
        task,
        state.variables,
        OneSize([batch, masked]),
        mesh,
        on_batch=lambda b, p, m: outputs.append((p, m())),
    )
    predictions, maps = outputs[0]
    assert predictions.shape == (4, 64, 64)
    expected = np.zeros((3, 3), np.int64)
    for labels, predicted in ((batch["label"], predictions), (batch["label"][:3], predictions[:3])):
        counted = labels != 255
        np.add.at(expected, (labels[counted], predicted[counted]), 1)
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.confusion.sum() == 7 * 62 * 64
    assert {k: v.shape for k, v in maps.items() if "module" not in k} == {
        "branch/0": (4, 8, 8),
        **{f"gate/context/bin{n}": (4, 8, 8) for n in (1, 2, 3, 6)},
    }
    assert evaluate(task, state.variables, OneSize([batch]), mesh, stop=lambda: True) is None


def test_padding_is_zero_after_normalization():
    task = make_task(1)
    image = np.full((2, 4, 6, 3), 128, np.uint8)
    size = np.array([[4, 6], [3, 2]], np.int32)
    x = np.asarray(normalize(task, jnp.asarray(image), jnp.asarray(size)))
    inside = (np.float32(128 / 255) - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(x[0], np.broadcast_to(inside, (4, 6, 3)), rtol=1e-5)
    np.testing.assert_allclose(x[1, :3, :2], np.broadcast_to(inside, (3, 2, 3)), rtol=1e-5)
    assert not x[1, 3:].any()
    assert not x[1, :, 2:].any()


def test_batch_size_must_divide_over_devices():
    mesh = make_mesh(jax.devices()[:4])
    check_batch_size(8, mesh, "train.batch_size")
    with pytest.raises(UserError, match=r"train\.batch_size must be a multiple of 4"):
        check_batch_size(6, mesh, "train.batch_size")
    with pytest.raises(UserError, match="such as 4; got 2"):
        check_batch_size(2, mesh, "train.batch_size")
    assert [round_up_batch_size(n, mesh) for n in (1, 4, 5)] == [4, 4, 8]
    split = put_batch({"image": np.arange(8)}, mesh)["image"]
    assert [int(s.data[0]) for s in split.addressable_shards] == [0, 2, 4, 6]


def one_step(task, batch, **state):
    """The state after the first step of a task, and the scalars."""
    mesh = make_mesh(jax.devices()[:1])
    start = replace(initial_state(task, mesh), **state)
    inputs = put_batch({k: batch[k] for k in ("image", "label", "size")}, mesh)
    return jax.device_get(jax.jit(partial(train_step, task))(start, inputs))


@pytest.mark.slow
def test_accumulated_gradients_equal_whole_batch(x64):
    """Exactly, but for BN: so every part holds the same images, with other labels ignored."""
    batch = next(batches())
    pair = {k: v[[0, 0, 1, 1]] for k, v in batch.items()}
    pair["label"] = pair["label"].copy()
    pair["label"][::2, 20:] = 255
    sections, weights = {"loss": {"class_weights": True}}, (1.0, 2.0, 0.5)
    model = FAST | {"dtype": "float64"}
    whole = make_task(2, sections, weights, **model)
    parts = make_task(2, sections | {"train": {"grad_accum_steps": 2}}, weights, **model)
    (one, left), (two, right) = one_step(whole, pair), one_step(parts, pair)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-9, err_msg=name)
    for x, y in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-10)
    # BN moves once a part, by the statistics of the part.
    means = [s.batch_stats["encoder"]["stem"]["bn"]["mean"] for s in (one, two)]
    # One update keeps 1/10 of the start, which is 0, a second one 2/11 of the first.
    np.testing.assert_allclose(means[0] / 0.9 * (2 / 11 * 0.9 + 9 / 11), means[1], rtol=1e-6)


@pytest.mark.long
def test_accumulated_ohem():
    task = make_task(
        2,
        {
            "train": {"grad_accum_steps": 2},
            "loss": {"terms": (("ohem", 1.0),), "ohem_min_kept": 50},
        },
    )
    _, scalars = one_step(task, next(batches()))
    assert scalars["finite"]
    assert scalars["loss/stage4"] > 0
    with pytest.raises(UserError, match=r"train\.grad_accum_steps must be a divisor of .*; got 3"):
        make_task(2, {"train": {"grad_accum_steps": 3}})


@pytest.mark.long
def test_bfloat16_computes_with_float32_parameters_statistics_and_loss():
    task = make_task(2, variant="mini", dtype="bfloat16")
    assert {str(x.dtype) for x in jax.tree.leaves(task.abstract_state)} == {"float32", "int32"}
    outputs = jax.eval_shape(
        lambda v: task.model.apply(v, jnp.zeros((1, 64, 64, 3))), task.abstract_state.variables
    )
    assert outputs.logits.dtype == jnp.bfloat16
    state, scalars = one_step(task, next(batches()))
    exact, expected = one_step(make_task(2, variant="mini"), next(batches()))
    assert {str(x.dtype) for x in jax.tree.leaves(state.batch_stats)} == {"float32"}
    assert scalars["loss"].dtype == np.float32
    assert scalars["loss"] == pytest.approx(expected["loss"], rel=0.05)
    assert scalars["loss"] != expected["loss"]
    mean, wide = (s.batch_stats["stem1"]["bn"]["mean"] for s in (state, exact))
    np.testing.assert_allclose(mean, wide, atol=0.02 * np.abs(wide).max())


@pytest.mark.slow
def test_evaluation_uses_ema():
    task = make_task(2, {"optim": {"ema_decay": 0.9}})
    mesh = make_mesh(jax.devices()[:1])
    start = jax.device_get(initial_state(task, mesh))
    state, _ = one_step(task, next(batches()))
    for kind in ("params", "batch_stats"):
        for old, new, mean in zip(
            *map(jax.tree.leaves, (start.ema[kind], getattr(state, kind), state.ema[kind])),
            strict=True,
        ):
            np.testing.assert_allclose(mean, 0.1 * old + 0.9 * new, rtol=1e-4, atol=1e-6)
    assert state.variables is state.ema
    assert initial_state(make_task(2), mesh).ema is None


def test_class_weights_need_one_value_per_class():
    on = {"loss": {"class_weights": True}}
    assert make_task(1, on, (1.0, 2.0, 3.0)).class_weights == (1.0, 2.0, 3.0)
    for weights in (None, (1.0, 2.0)):
        with pytest.raises(UserError, match=r"data\.class_weights must have 3 values"):
            make_task(1, on, weights)


@pytest.mark.slow
def test_hooks():
    run = {"log_every": 100, "checkpoint_every": 3, "eval_every": 4, "stop_at": 8}
    task, mesh = make_task(30, {"run": run}), make_mesh(jax.devices()[:1])
    events = []
    hooks = Hooks(
        log=lambda report: events.append(("report", report.step)),
        save=lambda state: events.append(("save", int(state.step))),
        evaluate=lambda state: events.append(("evaluate", int(state.step))),
        should_stop=lambda: (
            ("save", 6) in events
            and ("stop", 7) not in events
            and events.append(("stop", 7)) is None
        ),
    )
    state = fit(task, initial_state(task, mesh), batches(), mesh, hooks)
    expected = [
        ("report", 1),
        ("save", 3),
        ("save", 4),
        ("evaluate", 4),
        ("save", 6),
        ("stop", 7),
        ("report", 7),
        ("save", 7),
    ]
    assert events == expected
    assert int(state.step) == 7
    events.clear()

    def failing():
        raise RuntimeError("the workers are gone")
        yield

    state = fit(task, state, failing(), mesh, replace(hooks, should_stop=lambda: True))
    assert (int(state.step), events) == (7, []), "nothing new to save"
    with pytest.raises(RuntimeError, match="workers are gone"):
        fit(task, state, failing(), mesh, replace(hooks, should_stop=lambda: False))
    state = fit(task, state, batches(), mesh, replace(hooks, should_stop=lambda: False))
    assert events == [("report", 8), ("save", 8), ("evaluate", 8)]
    assert int(state.step) == 8


def test_stop_during_evaluation():
    run = {"run": {"log_every": 100, "checkpoint_every": 100, "eval_every": 2}}
    task, mesh, events = make_task(30, run, **GATED), make_mesh(jax.devices()[:1]), []
    hooks = Hooks(
        save=lambda state: events.append(("save", int(state.step))),
        evaluate=lambda state: events.append(("evaluate", int(state.step))),
        should_stop=lambda: ("evaluate", 2) in events,
    )
    state = fit(task, initial_state(task, mesh), batches(), mesh, hooks)
    assert events == [("save", 2), ("evaluate", 2)]
    assert int(state.step) == 2


@pytest.mark.slow
def test_stop_when_data_workers_die():
    task, mesh, saved = make_task(30), make_mesh(jax.devices()[:1]), []

    def ending():
        yield next(batches())
        yield next(batches())
        raise RuntimeError("the workers are gone")

    messages = iter([False, False, True])
    hooks = Hooks(
        save=lambda state: saved.append(int(state.step)), should_stop=lambda: next(messages)
    )
    state = fit(task, initial_state(task, mesh), ending(), mesh, hooks)
    assert (int(state.step), saved) == (2, [2])


def test_non_finite_step_is_not_saved():
    run = {"run": {"log_every": 1, "checkpoint_every": 1}, "optim": {"learning_rate": 1e30}}
    task, mesh, saved = make_task(9, run, **GATED), make_mesh(jax.devices()[:1]), []
    with pytest.raises(
        TrainingError,
        match=r"step 1: parameters .* not finite \(gradient_norm .*, loss .*, loss/sta",
    ) as error:
        fit(
            task,
            initial_state(task, mesh),
            batches(),
            mesh,
            Hooks(save=lambda s: saved.append(jax.device_get(s))),
        )
    step = int(str(error.value).split()[1].rstrip(":"))
    assert [int(s.step) for s in saved] == list(range(1, step))
