"""The pose task: losses, optimizer steps, recipe, and its config options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.optimizers import adam
from gsto_jax.training.schedules import step_schedule
from gsto_jax.training.task import initial_state
from gsto_jax.training.train_step import train_step
from tests.gsto_jax.pose_runs import batches, pose_task, pose_values
from tests.gsto_jax.small_task import make_task


@pytest.mark.long
def test_losses_of_microbatches_add_up():
    """The loss of a batch is the weighted sum of the losses of its microbatches."""
    task = pose_task(train={"grad_accum_steps": 3, "batch_size": 6})
    (batch,) = batches(6)
    state = initial_state(task, make_mesh(jax.devices()[:1]))
    inputs = {name: jnp.asarray(batch[name]) for name in task.train_inputs}
    _, scalars = jax.jit(train_step, static_argnums=0)(task, state, inputs)
    alone = pose_task()
    step = jax.jit(train_step, static_argnums=0)
    parts = [step(alone, state, {k: v[n::3] for k, v in inputs.items()})[1] for n in range(3)]
    for name in ("loss", "loss/stage2", "loss/stage4"):
        mean = np.mean([part[name] for part in parts])
        np.testing.assert_allclose(scalars[name], mean, rtol=1e-5)


def test_unlabeled_joints_have_no_loss():
    """Unlabeled joints change neither loss nor gradient."""
    task = pose_task()
    (batch,) = batches(6)
    inputs = {name: jnp.asarray(batch[name]) for name in task.train_inputs}
    moved = jnp.where(inputs["visible"][..., None] > 0, inputs["joints"], 20.0)
    outputs = jax.eval_shape(task.model.apply, task.abstract_state.variables, inputs["image"])
    rng = np.random.default_rng(0)
    outputs = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), outputs)
    losses = jax.jit(task.losses)
    loss, head_losses = losses(outputs, inputs)
    same, _ = losses(outputs, {**inputs, "joints": moved})
    np.testing.assert_array_equal(loss, same)
    weights = task.config.loss.head_weights
    total = sum(weights[stage] * value for stage, value in head_losses.items())
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    assert set(head_losses) == {"stage2", "stage3", "stage4"}


def test_adam_steps():
    """Against the update rule written out, weight decay in the gradient as PyTorch has it."""
    rate = step_schedule(1e-3, 210, (170 / 210, 200 / 210))
    rates = [float(rate(n)) for n in (0, 169, 170, 199, 200, 209)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)
    optimizer = adam(lambda count: 0.1, 0.01)
    params = np.array([1.0, -2.0, 0.5])
    state, params_of_optax = optimizer.init(jnp.asarray(params)), jnp.asarray(params)
    mean, square = np.zeros(3), np.zeros(3)
    rng = np.random.default_rng(0)
    for step in range(1, 6):
        grad = rng.normal(size=3)
        updates, state = optimizer.update(jnp.asarray(grad), state, params_of_optax)
        params_of_optax = optax.apply_updates(params_of_optax, updates)
        grad = grad + 0.01 * params
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        step_size = mean / (1 - 0.9**step)
        params = params - 0.1 * step_size / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(params_of_optax, params, rtol=1e-5)


def test_published_recipe():
    """The paper's: Adam at 1e-3, a tenth of it after 170 and 200 of 210 epochs, at both sizes."""
    spe = 149813 // 128
    task = pose_task(210 * spe)
    edges = (0, 170 * spe - 1, 170 * spe, 200 * spe - 1, 200 * spe)
    np.testing.assert_allclose(
        [float(task.schedule(n)) for n in edges], [1e-3] * 2 + [1e-4] * 2 + [1e-5], rtol=1e-6
    )
    import importlib

    for word, crop, sigma in ((None, (384, 288), 3), ("256x192", (256, 192), 2)):
        config = importlib.import_module("configs.coco_pose_w32").get_config(word)
        assert (tuple(config.data.crop), config.pose.sigma) == (crop, sigma)
        assert config.optim.kind == "adam" and config.eval.flip


def test_initial_heatmaps_are_small():
    for gtm in (("none",) * 3, ("none", "supervised", "supervised")):
        values = pose_values()
        values["model"]["hrnet"]["gtm"] = gtm
        variables = task_from_config(values).initial_variables()
        kernels = [variables["params"]["head"]["classifier"]["kernel"]]
        if "supervised" in gtm:
            kernels.append(
                variables["params"]["transition2"]["gtm"]["head"]["classifier"]["kernel"]
            )
        for kernel in kernels:
            assert kernel.std() == pytest.approx(0.001, rel=1e-3)


def test_invalid_options():
    with pytest.raises(UserError, match=r"pose\.ohkm_topk must be at most 17"):
        pose_task(pose={"ohkm_topk": 18})
    hrnet = pose_values()["model"]["hrnet"] | {"head": "ocr"}
    with pytest.raises(UserError, match=r"model\.hrnet\.head must be v1 or v2 for a pose task"):
        pose_task(model={"hrnet": hrnet})
    for section, field, value in (
        ("eval", "scales", (0.5, 1.0)),
        ("eval", "window", "slide"),
        ("loss", "terms", (("ohem", 1.0),)),
        ("loss", "label_smoothing", 0.1),
        ("loss", "class_weights", True),
    ):
        changed = {
            section: {field: value, "crop": (32, 32)} if section == "eval" else {field: value}
        }
        with pytest.raises(UserError, match=rf"{section}\.{field} must be .* for a pose task"):
            pose_task(**changed)
    for field, value in (
        ("sigma", 0),
        ("refinement", "udp"),
        ("nms", "on"),
        ("oks_threshold", 0),
    ):
        with pytest.raises(UserError, match=rf"config\.pose\.{field} .*{value!r}"):
            pose_task(pose={field: value})
    with pytest.raises(UserError, match=r"config\.optim\.kind .*'adagrad'"):
        make_task(1, {"optim": {"kind": "adagrad"}})
    with pytest.raises(UserError, match=r"config\.optim\.milestones .*170"):
        make_task(1, {"optim": {"milestones": (170, 200)}})
    plain = pose_values()
    plain["data"]["keypoints"]["names"] = ()
    from gsto_jax.runs.tasks import task_from_config

    with pytest.raises(UserError, match=r"keypoints\.names must not be empty"):
        task_from_config(plain)
