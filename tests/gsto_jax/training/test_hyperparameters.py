"""Hyperparameters are arguments of the compiled step, not constants."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import Conv
from gsto_jax.devices.mesh import compiler_options, make_mesh, put_batch
from gsto_jax.training.hyperparameters import step_hyperparameters
from gsto_jax.training.loop import CompiledTrainStep
from gsto_jax.training.optimizers import warmup_decay
from gsto_jax.training.task import initial_state
from gsto_jax.training.train_step import train_step
from tests.gsto_jax.small_task import MEAN, STD, make_task
from tests.gsto_jax.training.tiny_task import batch_of, tiny_task

OTHER = {
    "optim": {
        "learning_rate": 0.3,
        "momentum": 0.5,
        "weight_decay": 0.0,
        "poly_power": 2.0,
        "lr_lag": True,
        "warmup_fraction": 0.2,
        "warmup_start": 0.5,
        "ema_decay": 0.3,
    },
    "loss": {
        "stage_weights": (0.0, 0.1, 0.9, 2.0),
        "context_weight": 0.7,
        "ohem_threshold": 0.4,
        "ohem_min_kept": 7,
    },
    "model": {"bn_momentum": 0.6},
}


OHEM = (("ohem", 1.0),)


BASE = {"optim": {"ema_decay": 0.9}}


def lowered(task, side=16):
    shapes = task.abstract_batch(4, (side, side), "train")
    inputs = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    mesh = make_mesh(jax.devices()[:1])
    return CompiledTrainStep(task, mesh).lower(task.abstract_state, inputs).as_text()


@pytest.mark.parametrize(
    ("kind", "schedule"), [("sgd", "steps"), ("adam", "cosine"), ("lamb", "constant")]
)
def test_hyperparameters_do_not_change_the_program(kind, schedule):
    base = {**BASE["optim"], "kind": kind, "clip_norm": 1.0}
    other = {**OTHER["optim"], "kind": kind, "clip_norm": 0.3}
    more = {"milestones": (0.2, 0.7), "decay_rate": 0.5, "schedule": schedule}
    weighted = {"terms": OHEM, "class_weights": True}
    same = lowered(tiny_task(10, {"optim": base, "loss": weighted}, (1.0, 1.0, 1.0)))
    others = {"optim": other | more, "loss": weighted | OTHER["loss"], "model": OTHER["model"]}
    assert lowered(tiny_task(300, others, (0.2, 3.0, 1.5), seed=9)) == same
    assert lowered(tiny_task(10, {"optim": base | {"ema_decay": 0.0}})) != same


@pytest.mark.long
def test_hyperparameters_do_not_change_the_program_of_hrnet():
    for grad_accum_steps in ({}, {"train": {"grad_accum_steps": 2}}):
        first = make_task(100, BASE | grad_accum_steps, variant="mini")
        second = make_task(
            333, {k: OTHER[k] for k in ("optim", "loss")} | grad_accum_steps, **OTHER["model"]
        )
        assert lowered(first, 64) == lowered(second, 64)


def test_hyperparameters_as_arguments_equal_constants():
    task = tiny_task(10, {"optim": OTHER["optim"], "loss": {"terms": OHEM, "ohem_min_kept": 20}})
    mesh = make_mesh(jax.devices()[:1])
    by_arguments, by_constants = initial_state(task, mesh), initial_state(task, mesh)
    step, options = CompiledTrainStep(task, mesh), compiler_options(mesh)
    constant_step = jax.jit(partial(train_step, task), compiler_options=options)
    for n in range(5):
        inputs = put_batch(batch_of(n), mesh)
        by_arguments, scalars = step(by_arguments, inputs)
        by_constants, expected = constant_step(by_constants, inputs)
        assert float(scalars["learning_rate"]) == float(expected["learning_rate"])
    for actual, reference in zip(*map(jax.tree.leaves, (by_arguments, by_constants)), strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-5, atol=1e-6)


def test_step_hyperparameters():
    task = tiny_task(100, OTHER | {"train": {"grad_accum_steps": 2}}, (1.0, 2.0, 3.0))
    for n in (0, 3, 60):
        now = step_hyperparameters(task, jnp.int32(n))
        assert float(now.learning_rate) == float(task.schedule(n))
        # Step n moves the running statistics the (2 n + 1)-th and the (2 n + 2)-th time.
        expected = [min(0.6, (1 + u) / (10 + u)) for u in (2 * n, 2 * n + 1)]
        np.testing.assert_allclose(now.bn_momentum, expected, rtol=1e-6)
        assert (now.momentum, now.weight_decay, now.ema_decay) == (0.5, 0.0, 0.3)
        assert now.loss.head_weights["stage4"] == 2.0
    assert step_hyperparameters(tiny_task(), jnp.int32(0)).class_weights is None


def test_dropout_keys():
    """They differ between steps, microbatches and seeds, and exist only with dropout."""
    sections, ocr = {"train": {"grad_accum_steps": 2}}, {"variant": "mini", "head": "ocr"}
    task = make_task(5, sections, **ocr)
    keys = [step_hyperparameters(task, jnp.int32(n)).dropout_key for n in (0, 1, 1)]
    data = jax.random.key_data(jnp.stack(keys)).reshape(6, -1).tolist()
    assert data[2:4] == data[4:]
    assert len({tuple(values) for values in data}) == 4
    without = make_task(5, sections, **ocr, ocr_dropout=0.0)
    assert step_hyperparameters(without, jnp.int32(0)).dropout_key is None


@pytest.mark.long
@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_seeds_do_not_change_the_program_with_dropout(grad_accum_steps):
    sections = {"train": {"grad_accum_steps": grad_accum_steps}}
    sizes = {"ocr_features": 8, "ocr_key_features": 4}
    task = make_task(5, sections, variant="mini", head="ocr", **sizes)
    other = replace(task, config=replace(task.config, seed=task.config.seed + 1))
    program = lowered(task, 64)
    assert "threefry" in program or "random_bits" in program
    assert lowered(other, 64) == program


def test_warmup_decay():
    decays = [float(warmup_decay(0.99, jnp.int32(n))) for n in (0, 8, 889, 890, 10**6)]
    np.testing.assert_allclose(decays, [0.1, 0.5, 890 / 899, 0.99, 0.99], rtol=1e-6)


@pytest.mark.parametrize(("steps", "accumulate"), [(3, 1), (12, 1), (3, 4)])
def test_running_statistics_converge_in_few_steps(steps, accumulate):
    rates = {"learning_rate": 1e-6}
    task = tiny_task(steps, {"optim": rates, "train": {"grad_accum_steps": accumulate}})
    mesh = make_mesh(jax.devices()[:1])
    state, step = initial_state(task, mesh), CompiledTrainStep(task, mesh)
    params = jax.device_get(state.params)
    for n in range(steps):
        state, _ = step(state, put_batch(batch_of(n, 32), mesh))
    images = np.concatenate([batch_of(n, 32)["image"] for n in range(steps)])
    pixels = ((images / 255 - MEAN) / STD).astype(np.float32)
    maps = Conv(4, 3, stride=4).apply({"params": params["conv"]}, pixels)
    mean, var = (np.asarray(v) for v in (maps.mean((0, 1, 2)), maps.var((0, 1, 2))))
    deviation = np.sqrt(var)
    assert np.abs(mean / deviation).max() > 1  # far from the start, mean 0
    running = jax.device_get(state.batch_stats)["bn"]
    assert np.abs((running["mean"] - mean) / deviation).max() < 0.2
    np.testing.assert_allclose(running["var"], var, rtol=0.25)
