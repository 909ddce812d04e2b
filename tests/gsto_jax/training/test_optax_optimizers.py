"""Optimizers of optax against their update rules in NumPy; gradient clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from gsto_jax import UserError
from gsto_jax.config.sections import OptimConfig
from gsto_jax.devices.mesh import make_mesh, put_batch, tree_shardings
from gsto_jax.training.loop import CompiledTrainStep
from gsto_jax.training.optimizers import make_optimizer
from gsto_jax.training.task import initial_state
from tests.gsto_jax.training.tiny_task import batch_of, tiny_task

RATES, DECAY, MOMENTUM = (0.1, 0.3, 0.05, 0.2), 0.04, 0.8
BETAS = {"lion": (0.9, 0.99)}
OTHER_BETAS = (0.7, 0.95)


def norm(x):
    return np.sqrt((x**2).sum())


def numpy_update(kind, state, p, g, *, rate, decay, t, betas, trust):
    """Returns the new value of a parameter at step t (from 1); updates the moments in place."""
    b1, b2 = betas
    m, v = state.get("m", 0), state.get("v", 0)
    if kind == "lion":
        state["m"] = b2 * m + (1 - b2) * g
        return p - rate * (np.sign(b1 * m + (1 - b1) * g) + decay * p)
    if kind == "lars":
        g = g + decay * p
        scale = 0.001 * norm(p) / norm(g) if trust and norm(p) else 1
        state["m"] = MOMENTUM * m + rate * scale * g
        return p - state["m"]
    state["m"], state["v"] = m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    mean = m / (1 - b1**t)
    if kind == "nadamw":
        mean = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    update = mean / (np.sqrt(v / (1 - b2**t)) + (1e-6 if kind == "lamb" else 1e-8)) + decay * p
    if kind == "lamb":
        update *= norm(p) / norm(update) if norm(p) else 1
    return p - rate * update


def optimizer_at(config, rate, weight_decay=DECAY, clip_norm=0.0):
    values = {"learning_rate": rate, "momentum": MOMENTUM, "weight_decay": weight_decay}
    return make_optimizer(config, **values, clip_norm=clip_norm)


def tree(seed, bias=True):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(3, 4)).astype(np.float32)
    return {"kernel": kernel, "bias": bias * rng.normal(size=4).astype(np.float32)}


@pytest.mark.parametrize("kind", ["adamw", "nadamw", "lamb", "lars", "lion"])
def test_updates_equal_numpy(kind):
    for options in ({}, {"decay_bn_and_bias": False, "betas": OTHER_BETAS}):
        config = OptimConfig(kind=kind, **options)
        params, steps = tree(0, bias=not options), {}
        expected = {k: x.astype(np.float64) for k, x in params.items()}
        state = optimizer_at(config, 0.0).init(params)

        @jax.jit
        def step(grads, state, params, rate, config=config):
            updates, state = optimizer_at(config, rate).update(grads, state, params)
            return optax.apply_updates(params, updates), state

        for t, rate in enumerate(RATES, 1):
            grads = tree(t)
            params, state = step(grads, state, params, rate)
            for name, p in expected.items():
                on = not options or name == "kernel"
                expected[name] = numpy_update(
                    kind,
                    steps.setdefault(name, {}),
                    p,
                    grads[name].astype(np.float64),
                    rate=rate,
                    decay=DECAY if on else 0,
                    t=t,
                    betas=config.betas or BETAS.get(kind, (0.9, 0.999)),
                    trust=on,
                )
                np.testing.assert_allclose(params[name], expected[name], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_weight_decay_without_bn_and_biases(kind):
    params = tree(0)
    grads = jax.tree.map(np.zeros_like, params)
    optimizer = optimizer_at(OptimConfig(kind=kind, decay_bn_and_bias=False), 0.1)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert not np.any(updates["bias"]) and np.all(updates["kernel"])


@pytest.mark.parametrize("decay_bn_and_bias", [True, False])
def test_parameters_without_weight_decay(decay_bn_and_bias):
    params = {"gate": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}, "head": np.ones(2)}
    optimizer = make_optimizer(
        OptimConfig(decay_bn_and_bias=decay_bn_and_bias),
        learning_rate=1.0,
        momentum=0.9,
        weight_decay=0.5,
        clip_norm=0.0,
        undecayed={"gate/kernel"},
    )

    @jax.jit
    def first_update(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optimizer.update(zeros, optimizer.init(params), params)[0]

    updates = first_update(params)
    on_vectors = -0.5 if decay_bn_and_bias else 0.0
    assert not np.any(updates["gate"]["kernel"])
    assert np.all(updates["gate"]["bias"] == on_vectors)
    assert np.all(updates["head"] == on_vectors)


def test_lars_scales_updates_of_parameters_without_weight_decay():
    params, grads = {"a": tree(0), "b": tree(1)}, {"a": tree(2), "b": tree(3)}
    options = {"learning_rate": 0.1, "momentum": MOMENTUM, "weight_decay": DECAY, "clip_norm": 0.0}
    config = OptimConfig(kind="lars", decay_bn_and_bias=False)
    optimizer = make_optimizer(config, **options, undecayed={"a/kernel"})
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for part, decay in (("a", 0.0), ("b", DECAY)):
        p, g = params[part]["kernel"], grads[part]["kernel"]
        update = numpy_update(
            "lars", {}, p, g, rate=0.1, decay=decay, t=1, betas=(0.9, 0.999), trust=True
        )
        np.testing.assert_allclose(updates[part]["kernel"], update - p, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "nadamw", "lamb", "lars", "lion"])
def test_updates_are_proportional_to_the_learning_rate(kind):
    """As learning-rate factors by parameter assume, also of moments and momentum."""

    @jax.jit
    def last_update(rate):
        optimizer = optimizer_at(OptimConfig(kind=kind, clip_norm=1.0), rate, clip_norm=1.0)
        params = tree(0)
        state = optimizer.init(params)
        for n in range(3):
            updates, state = optimizer.update(tree(n), state, params)
        return updates

    updates = [last_update(rate) for rate in (0.1, 0.4)]
    for small, large in zip(*map(jax.tree.leaves, updates), strict=True):
        np.testing.assert_allclose(4 * small, large, rtol=1e-5)


def test_clipping_scales_large_gradients_only():
    config = OptimConfig(clip_norm=1.0)
    grads = tree(1)
    length = float(optax.tree.norm(grads))
    for clip_norm in (length / 3, length * 1.01):
        optimizer = optimizer_at(config, 1.0, weight_decay=0.0, clip_norm=clip_norm)
        updates, _ = optimizer.update(grads, optimizer.init(tree(0)), tree(0))
        factor = min(1, clip_norm / length)
        for update, grad in zip(*map(jax.tree.leaves, (updates, grads)), strict=True):
            np.testing.assert_allclose(update, -factor * grad, rtol=1e-6)
            assert factor < 1 or np.array_equal(update, -grad)


@pytest.mark.parametrize(
    ("devices", "sections"),
    [
        (1, {"train": {"grad_accum_steps": 2}}),
        (4, {"parallel": {"shard_parameters": True}}),
    ],
)
def test_clipping_is_by_the_norm_of_the_whole_gradient(devices, sections):
    """Of all microbatches, and of all shards; the EMA follows the clipped step."""
    optim = {"clip_norm": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    optim |= {"learning_rate": 0.5, "ema_decay": 0.9}
    task = tiny_task(10, {"optim": optim, **sections})
    mesh = make_mesh(jax.devices()[:devices])
    state = initial_state(task, mesh)
    before = jax.device_get(state.params)
    state, metrics = CompiledTrainStep(task, mesh)(state, put_batch(batch_of(), mesh))
    after, ema = jax.device_get((state.params, state.ema["params"]))
    change = jax.tree.map(np.subtract, after, before)
    assert float(metrics["gradient_norm"]) > 0.1, "before clipping"
    np.testing.assert_allclose(float(optax.tree.norm(change)), 0.5 * 0.01, rtol=1e-3)
    for x, y, mean in zip(*map(jax.tree.leaves, (before, after, ema)), strict=True):
        np.testing.assert_allclose(mean, 0.1 * x + 0.9 * y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["lamb", "lars"])
def test_trust_ratios_are_of_whole_parameters(kind):
    """The ratio of a sharded kernel is that of all its shards, whose norms differ by 30."""
    mesh = make_mesh(jax.devices()[:4])
    rng = np.random.default_rng(0)
    scale = np.float32([30, 1, 1, 1]).repeat(16)
    params = {"kernel": rng.normal(size=(64, 64)).astype(np.float32) * scale}
    grads = {"kernel": rng.normal(size=(64, 64)).astype(np.float32) / scale}
    optimizer = optimizer_at(OptimConfig(kind=kind), 0.1)

    @jax.jit
    def step(grads, params):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    sharding = tree_shardings(params, mesh, shard=True)
    assert sharding["kernel"].spec == PartitionSpec(None, "data")
    sharded = step(*(jax.device_put(tree, sharding) for tree in (grads, params)))["kernel"]
    assert not sharded.sharding.is_fully_replicated
    options = {"rate": 0.1, "decay": DECAY, "t": 1, "betas": (0.9, 0.999), "trust": True}
    p, g = (tree["kernel"].astype(np.float64) for tree in (params, grads))
    whole = numpy_update(kind, {}, p, g, **options)
    np.testing.assert_allclose(sharded, whole, rtol=1e-5, atol=1e-5)
    parts = zip(np.split(p, 4, 1), np.split(g, 4, 1), strict=True)
    by_shard = np.concatenate([numpy_update(kind, {}, *part, **options) for part in parts], 1)
    assert (norm(by_shard - whole) / norm(whole - p)) > 0.2


def test_rounding_of_gradients_near_zero_moves_lamb():
    """Why a kernel may differ between one device and several, which sum gradients in other orders.

    Adam's first update is g / (|g| + eps). An element whose gradient is near eps = 1e-6 moves
    by a fraction of the learning rate when g is rounded differently: on the quickstart's network
    after one step, replicated and sharded parameters of four devices alike differ from one
    device by 2e-5 where g is 1.72e-6 and 1.68e-6, and all g of that kernel agree within 1e-7.
    """
    params, grads = tree(0), tree(1)
    optimizer = optimizer_at(OptimConfig(kind="lamb"), 0.01, weight_decay=0.0)
    kernels = []
    for g in (1e-7, -1e-7):
        grads["kernel"][0, 0] = g
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        kernels.append(np.asarray(updates["kernel"]))
    moved = np.abs(kernels[0] - kernels[1])
    ratio = norm(params["kernel"]) / np.sqrt(params["kernel"].size)
    # The update of this element is +-0.09 of that of the others, at a gradient 1e-7 of theirs.
    np.testing.assert_allclose(moved[0, 0], 2 * (0.1 / 1.1) * 0.01 * ratio, rtol=0.1)
    assert np.delete(moved.ravel(), 0).max() < 1e-4 * moved[0, 0]


def test_state_without_clipping_is_as_before():
    """So that checkpoints of SGD and Adam remain readable."""
    params = jax.tree.map(jnp.asarray, tree(0))
    chain = optax.chain(
        optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale_by_learning_rate(lambda n: 1)
    )
    state = optimizer_at(OptimConfig(), 0.1).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(chain.init(params))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"kind": "rmsprop"}, "kind"),
        ({"betas": (0.9,)}, "betas"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"clip_norm": float("nan")}, "clip_norm"),
        ({"schedule": "cosin"}, "schedule"),
        ({"schedule": "onecycle", "warmup_fraction": 0.1}, "warmup_fraction"),
        ({"onecycle_rise": 1.0}, "onecycle_rise"),
    ],
)
def test_invalid_options(options, name):
    with pytest.raises(UserError, match=rf"config\.optim\.{name} must be"):
        OptimConfig(**options)
