"""Frozen parameters and learning-rate factors by pattern."""

from functools import cached_property, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import BatchNorm, Outputs, SelfGated, UserError
from gsto_jax.config import ModelConfig, OptimConfig
from gsto_jax.devices.mesh import make_mesh, put_batch
from gsto_jax.layers.blocks import ConvBN
from gsto_jax.layers.heads import SegmentationHead
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.training.loop import CompiledTrainStep
from gsto_jax.training.optimizers import sgd
from gsto_jax.training.parameter_groups import (
    Frozen,
    frozen_part,
    merge,
    rate_factors,
    select,
    split,
    undecayed,
    with_rate_factors,
)
from gsto_jax.training.task import initial_state
from tests.gsto_jax.small_task import batches, make_task, segmentation_task

PARAMS = {
    "stem1": {"conv": {"kernel": 1.0}, "bn": {"scale": 2.0, "bias": 3.0}},
    "head": {"conv": {"kernel": 4.0}, "bn": {"scale": 5.0, "bias": 6.0}},
    "transition2": {"gtm": {"head": {"classifier": {"kernel": 7.0}}}},
}
STATS = {name: {"bn": {"mean": 0.0, "var": 1.0}} for name in ("stem1", "head")}
VARIABLES = {"params": PARAMS, "batch_stats": STATS}
PATHS = list(flatten_dict(PARAMS, sep="/"))


def test_patterns_match_parameters_and_modules():
    assert select("head", PATHS) == ["head/conv/kernel", "head/bn/scale", "head/bn/bias"]
    assert select("head*", PATHS) == select("head", PATHS)
    assert select("*head", PATHS) == [*select("head", PATHS), PATHS[-1]]
    assert select("*/bn", PATHS) == [path for path in PATHS if "/bn/" in path]
    assert select("stem?/conv/kernel", PATHS) == ["stem1/conv/kernel"]
    assert select("Head*", PATHS) == select("conv", PATHS) == []


def test_frozen_part():
    freeze = partial(frozen_part, variables=VARIABLES)
    assert freeze(ModelConfig(freeze=("stem1",))) == Frozen(
        frozenset(select("stem1", PATHS)), frozenset({"stem1/bn"})
    )
    assert freeze(ModelConfig(freeze=("*/scale",))).norms == frozenset(), "the bias is trained"
    assert freeze(ModelConfig(freeze=("*/scale", "head/bn/bias"))).norms == {"head/bn"}
    every = freeze(ModelConfig(freeze_bn=True))
    assert (every.params, every.norms) == (frozenset(), {"stem1/bn", "head/bn"})
    assert every.batch_stats == {f"{n}/bn/{v}" for n in ("stem1", "head") for v in ("mean", "var")}
    with pytest.raises(UserError, match=r"config\.model\.freeze .*'stem1'.*got 'stme1'"):
        freeze(ModelConfig(freeze=("head", "stme1")))
    with pytest.raises(UserError, match=r"config\.model\.freeze .*to train"):
        freeze(ModelConfig(freeze=("*",)))
    with pytest.raises(UserError, match=r"config\.model\.freeze"):
        ModelConfig(freeze=("",))


def test_rate_factors():
    rates = (("*", 2.0), ("head", 10.0), ("head/bn/bias", 1))
    factors = rate_factors(OptimConfig(rates=rates), PARAMS)
    assert factors == dict.fromkeys(PATHS, 2) | {
        "head/conv/kernel": 10,
        "head/bn/scale": 10,
        "head/bn/bias": 1,
    }
    config = OptimConfig(rates=(("stem*", 0.1),))
    assert set(rate_factors(config, PARAMS, {"stem1/bn/bias"})) == {
        "stem1/conv/kernel",
        "stem1/bn/scale",
    }
    with pytest.raises(UserError, match=r"config\.optim\.rates .*are trained.*got 'stem\*'"):
        rate_factors(config, PARAMS, select("stem1", PATHS))
    with pytest.raises(UserError, match=r"config\.optim\.rates .*'head'.*got 'haed'"):
        rate_factors(OptimConfig(rates=(("haed", 2),)), PARAMS)
    for pair in (("head", 0.0), ("head", float("nan")), ("", 1.0), ("head",), (1.0, "head")):
        with pytest.raises(UserError, match=r"config\.optim\.rates"):
            OptimConfig(rates=(pair,))


def test_no_decay():
    config = OptimConfig(no_decay=("head/bn", "*/kernel"))
    paths = undecayed(config, PARAMS, {"stem1/conv/kernel"})
    assert paths == {"head/bn/scale", "head/bn/bias", "head/conv/kernel", PATHS[-1]}
    with pytest.raises(UserError, match=r"config\.optim\.no_decay .*'head'.*got 'haed'"):
        undecayed(OptimConfig(no_decay=("haed",)), PARAMS)
    with pytest.raises(UserError, match=r"config\.optim\.no_decay"):
        OptimConfig(no_decay=("",))


def test_a_pattern_of_gates_alone():
    gates = [
        "stage2_module0/fusion/gate0/conv/kernel",
        "transition2/gtm/gate/cbr0/bn/scale",
        "context/gates/gate/conv/kernel",
    ]
    assert select("*/gate[!s]*", [*gates, "context/gates/predictor/kernel"]) == gates


def test_split_and_merge():
    paths = select("head", PATHS)
    rest, selected = split(PARAMS, paths)
    assert list(flatten_dict(selected, sep="/")) == paths
    assert not set(paths) & set(flatten_dict(rest, sep="/"))
    assert merge(rest, selected) == PARAMS
    assert split(PARAMS, ()) == (PARAMS, {})


def test_sgd_with_factors_equals_numpy():
    """PyTorch's SGD with a learning rate per group: decay in the gradient, then momentum."""
    rate, momentum, decay, factors = 0.1, 0.9, 0.01, {"a/w": 10.0, "b": 0.5}
    rng = np.random.default_rng(0)
    params = {"a/w": rng.normal(size=3), "b": rng.normal(size=(2, 2)), "c": rng.normal(size=4)}
    gradients = [{k: rng.normal(size=p.shape) for k, p in params.items()} for _ in range(4)]
    optimizer = with_rate_factors(sgd(lambda step: rate, momentum, decay), factors)
    nested = jax.tree.map(jnp.asarray, {"a": {"w": params["a/w"]}, **split(params, {"a/w"})[0]})

    @jax.jit
    def run(tree, gradients):
        state = optimizer.init(tree)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, tree)
            tree = optax.apply_updates(tree, updates)
        return tree

    result = run(nested, [{"a": {"w": g["a/w"]}, "b": g["b"], "c": g["c"]} for g in gradients])
    buffers = {k: np.zeros_like(p) for k, p in params.items()}
    for gradient in gradients:
        for k, p in params.items():
            buffers[k] = momentum * buffers[k] + gradient[k] + decay * p
            params[k] = p - rate * factors.get(k, 1) * buffers[k]
    for k, leaf in flatten_dict(result, sep="/").items():
        np.testing.assert_allclose(leaf, params[k], rtol=1e-5)


class SmallNetwork(nn.Module):
    """A fused gate, rematerialized, and a head whose BN cancels a bias."""

    bn_momentum: float | jax.Array = 0.99
    frozen_norms: frozenset = frozenset()

    @nn.compact
    def __call__(self, x, train=False):
        norm = partial(BatchNorm, self.bn_momentum, frozen=self.frozen_norms, groups=2)
        block = nn.remat(ConvBN, static_argnums=(2,))(4, norm=norm, name="block")
        gated = SelfGated(num_gates=3, norm=partial(norm, groups=1), name="gate")(
            block(x, train), train
        )
        head = SegmentationHead(3, norm=norm, name="head")
        return Outputs(head(sum(gated.maps), train), {}, {}, {})


class SmallTask(SegmentationTask):
    @cached_property
    def model(self):
        return SmallNetwork()


@pytest.fixture(scope="module")
def steps():
    """Two steps with a frozen body, EMA, two microbatches, a factor and sharded parameters."""
    sections = {
        "optim": {"ema_decay": 0.9, "rates": (("head/classifier", 10.0),), "weight_decay": 0.1},
        "train": {"grad_accum_steps": 2},
        "parallel": {"shard_parameters": True},
    }
    config = make_task(4, sections, freeze=("block", "gate", "head/conv")).config
    task = segmentation_task(SmallTask, config=config, steps=4)
    mesh = make_mesh(jax.devices()[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gsto_jax.devices.mesh.MIN_SHARDED_SIZE", 1)
        state, step = initial_state(task, mesh), CompiledTrainStep(task, mesh)
        states = [jax.device_get(state)]
        batch = next(batches(4, 32))
        inputs = put_batch({k: batch[k] for k in task.train_inputs}, mesh)
        for _ in range(2):
            state, metrics = step(state, inputs)
            states.append(jax.device_get(state))
    assert any(not x.is_fully_replicated for x in jax.tree.leaves(state.params))
    return task, states, metrics


def test_frozen_variables_are_bit_identical(steps):
    task, (start, _, end), metrics = steps
    assert metrics["finite"] and metrics["gradient_norm"] > 0
    frozen = task.frozen
    trained = {"head/bn/scale", "head/bn/bias", "head/classifier/kernel", "head/classifier/bias"}
    for tree in ("params", "batch_stats"):
        paths = getattr(frozen, tree)
        for before, after in (
            (getattr(start, tree), getattr(end, tree)),
            (start.ema[tree], end.ema[tree]),
        ):
            before, after = flatten_dict(before, sep="/"), flatten_dict(after, sep="/")
            same = {path for path in before if np.array_equal(before[path], after[path])}
            assert same == paths, tree
            assert set(before) - paths == (
                trained if tree == "params" else {"head/bn/mean", "head/bn/var"}
            )


def test_frozen_parameters_have_no_optimizer_state(steps):
    task, (start, *_), _ = steps
    momentum = [leaf.shape for leaf in jax.tree.leaves(start.opt_state) if leaf.ndim]
    trained, frozen = split(start.params, task.frozen.params)
    assert momentum == [leaf.shape for leaf in jax.tree.leaves(trained)]
    assert len(momentum) == 4 < len(jax.tree.leaves(frozen))


def test_frozen_norms_train_as_at_inference():
    """With all BN frozen, a training step has the outputs and gradients of inference."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 4, 2)).astype(np.float32)
    variables = jax.jit(SmallNetwork().init)(jax.random.key(0), x)
    norms = frozen_part(ModelConfig(freeze_bn=True), variables).norms
    assert norms == {"block/bn", "gate/bn", "head/bn"}
    network = SmallNetwork(frozen_norms=norms)
    stats = jax.tree.map(
        lambda v: (v - rng.uniform(0.5, 0.9, v.shape)).astype(v.dtype), variables["batch_stats"]
    )

    def loss(params, train):
        tree = {"params": params, "batch_stats": stats}
        outputs, updates = network.apply(tree, x, train, mutable=["batch_stats"])
        return jnp.square(outputs.logits).mean(), updates

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    ((expected, _), grads), ((actual, updates), train_grads) = (
        gradient(variables["params"], train) for train in (False, True)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], stats)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), train_grads, grads)
    assert all(map(np.any, jax.tree.leaves(train_grads))), "no BN subtracts the head's bias"
