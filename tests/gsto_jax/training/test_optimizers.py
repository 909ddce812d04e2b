"""SGD equals a NumPy implementation, gradients included."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsto_jax import BatchNorm, Conv
from gsto_jax.losses import cross_entropy
from gsto_jax.training.optimizers import sgd
from gsto_jax.training.schedules import poly_schedule

STEPS, RATE, MOMENTUM, DECAY, KEEP, EPSILON = 10, 0.1, 0.9, 5e-2, 0.9, 1e-5


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(5, name="conv")(x)
        x = jax.nn.relu(BatchNorm(momentum=KEEP, name="bn")(x, train))
        return Conv(3, use_bias=True, name="classifier")(x)


def numpy_step(p, buffers, stats, x, label, rate):
    """One step on pixels `n c`; updates everything in place."""
    n = len(x)
    y = x @ p["conv/kernel"]
    mean, var = y.mean(0), y.var(0)
    normal = (y - mean) / np.sqrt(var + EPSILON)
    z = normal * p["bn/scale"] + p["bn/bias"]
    a = np.maximum(z, 0)
    logits = a @ p["classifier/kernel"] + p["classifier/bias"]
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)

    valid = label != 255
    d_logits = softmax.copy()
    d_logits[np.arange(n), np.where(valid, label, 0)] -= 1
    d_logits *= valid[:, None] / valid.sum()
    d_z = (d_logits @ p["classifier/kernel"].T) * (z > 0)
    d_normal = d_z * p["bn/scale"]
    centerd = d_normal - d_normal.mean(0) - normal * (d_normal * normal).mean(0)
    grads = {
        "conv/kernel": x.T @ (centerd / np.sqrt(var + EPSILON)),
        "bn/scale": (d_z * normal).sum(0),
        "bn/bias": d_z.sum(0),
        "classifier/kernel": a.T @ d_logits,
        "classifier/bias": d_logits.sum(0),
    }
    for key, grad in grads.items():
        buffers[key] = MOMENTUM * buffers.get(key, 0) + grad + DECAY * p[key]
        p[key] = p[key] - rate * buffers[key]
    stats["mean"] = KEEP * stats["mean"] + (1 - KEEP) * mean
    stats["var"] = KEEP * stats["var"] + (1 - KEEP) * var * n / (n - 1)


def flat(params):
    return {
        f"{module}/{name}": np.asarray(leaf).squeeze((0, 1)) if leaf.ndim == 4 else np.asarray(leaf)
        for module, leaves in params.items()
        for name, leaf in leaves.items()
    }


def test_sgd_equals_numpy(x64):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS, 2, 3, 4, 6))
    label = rng.choice([0, 1, 2, 255], (STEPS, 2, 3, 4))
    model = Tiny()
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64), model.init(jax.random.key(0), x[0])
    )
    params, batch_stats = variables["params"], variables["batch_stats"]
    optimizer = sgd(poly_schedule(RATE, STEPS), MOMENTUM, DECAY)
    opt_state = optimizer.init(params)

    expected, buffers = flat(params), {}
    stats = {k: np.asarray(v) for k, v in batch_stats["bn"].items()}

    @jax.jit
    def step(params, batch_stats, opt_state, x, label):
        def loss_fn(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats}, x, True, mutable=["batch_stats"]
            )
            return cross_entropy(logits, label), updates["batch_stats"]

        grads, batch_stats = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    for n in range(STEPS):
        params, batch_stats, opt_state = step(params, batch_stats, opt_state, x[n], label[n])
        rate = RATE * (1 - n / STEPS) ** 0.9
        numpy_step(expected, buffers, stats, x[n].reshape(-1, 6), label[n].reshape(-1), rate)
        for key, value in flat(params).items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-6, atol=1e-9, err_msg=key)
        np.testing.assert_allclose(batch_stats["bn"]["mean"], stats["mean"], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(batch_stats["bn"]["var"], stats["var"], rtol=1e-6)


def test_nesterov_momentum_is_that_of_pytorch():
    """buffer = momentum * buffer + g; p -= rate * (g + momentum * buffer), g with weight decay."""
    optimizer = sgd(lambda step: RATE, MOMENTUM, DECAY, nesterov=True)
    p = np.array([1.0, -2.0], np.float32)
    params, buffer = jnp.asarray(p), np.zeros(2)
    state = optimizer.init(params)
    for grad in np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32):
        updates, state = optimizer.update(jnp.asarray(grad), state, params)
        params = optax.apply_updates(params, updates)
        grad = grad + DECAY * p
        buffer = MOMENTUM * buffer + grad
        p = p - RATE * (grad + MOMENTUM * buffer)
        np.testing.assert_allclose(params, p, rtol=1e-5)
