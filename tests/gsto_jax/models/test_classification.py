"""HRNet-C compared with the reference network and its counts; its names in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import PLAIN, VARIANTS, GSTOSpec, HRNet, HRNetSpec, UserError, create_model
from gsto_jax.losses import classification_supervision
from gsto_jax.models import count, count_by_module
from gsto_jax.models.initialize import abstract_variables
from gsto_jax.weights import (
    GSTO_CLASSIFICATION_FORMAT,
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    detect_format,
    from_state_dict,
    to_state_dict,
    transfer,
)
from tests.golden.make_timm import image, weights
from tests.gsto_jax.golden_states import deviation, load, nhwc, state_of
from tests.gsto_jax.loss_settings import loss_config
from tests.gsto_jax.weight_states import assert_equal_arrays, group_sizes, network, without

# Exact counts of convolutions and linear layer, of BN, and MACs at 224x224.
EXACT = {
    "w18_small_v2": (13515236 + 2049000, 33228, 2595712864),
    "w18": (19198788 + 2049000, 51216, 4283537072),
    "w32": (39109056 + 2049000, 74624, 8921133056),
    "w48": (75319488 + 2049000, 101376, 17277996032),
}


@pytest.fixture(scope="module")
def m(golden):
    return golden("m")


def golden_network(m, **kwargs):
    """The network whose settings are under `config/`."""
    settings = {
        key.removeprefix("config/"): tuple(value.tolist()) if value.ndim else int(value)
        for key, value in m.items()
        if key.startswith("config/")
    }
    spec = HRNetSpec(
        widths=settings["widths"],
        modules=settings["modules"],
        blocks=settings["blocks_per_branch"],
        stage1_blocks=settings["stage1_blocks"],
        stage1_planes=settings["stage1_planes"],
        head_planes=settings["head"],
        head_features=settings["final"],
    )
    dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    options = {"head": "cls", "upsample": "nearest"} | dtypes | kwargs
    return HRNet(spec, PLAIN, settings["num_classes"], **options)


def test_equals_the_reference_at_inference(m, x64):
    model = golden_network(m)
    state = state_of(m)
    assert detect_format(state) is IMAGENET_FORMAT
    variables = load(model, state, IMAGENET_FORMAT)
    out = jax.jit(model.apply)(variables, nhwc(m["input"]))
    assert out.logits.shape == m["out"].shape
    assert deviation(out.logits, m["out"]) < 1e-6
    for n, branch in enumerate(out.branches["stage4"]):
        assert deviation(branch, m[f"tap/stage4.branch{n}"]) < 1e-6
    assert_equal_arrays(to_state_dict(variables, IMAGENET_FORMAT), state)


@pytest.mark.slow
def test_equals_the_reference_in_training(golden, m, x64):
    m2 = golden("m2")
    model = golden_network(m, bn_momentum=0.9)
    variables = load(model, state_of(m), IMAGENET_FORMAT)

    def loss_fn(params):
        out, updates = model.apply(
            {**variables, "params": params}, nhwc(m["input"]), train=True, mutable=["batch_stats"]
        )
        loss, _ = classification_supervision(out, jnp.asarray(m2["label"]), loss_config())
        return loss, (out, updates["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, (out, stats)), grads = step(variables["params"])
    np.testing.assert_allclose(loss, m2["loss"], rtol=1e-6)
    assert deviation(out.logits, m2["out"]) < 1e-6
    grads = to_state_dict({"params": grads}, IMAGENET_FORMAT)
    norms = {k.removeprefix("gradnorm/"): v for k, v in m2.items() if k.startswith("gradnorm/")}
    assert set(norms) == set(grads)
    zero = {*(f"downsamp_modules.{n}.0.bias" for n in range(3)), "final_layer.0.bias"}
    for key, norm in norms.items():
        if key in zero:
            np.testing.assert_allclose(grads[key], 0, atol=1e-12)
            continue
        np.testing.assert_allclose(np.linalg.norm(grads[key]), norm, rtol=1e-6, err_msg=key)
        if f"grad/{key}" in m2:
            assert deviation_of(grads[key], m2[f"grad/{key}"]) < 1e-6, key
    stats = to_state_dict({"b": stats}, IMAGENET_FORMAT)
    for key, value in stats.items():
        assert deviation_of(value, m2[f"new/{key}"]) < 1e-6, key


def deviation_of(value, reference):
    return np.abs(value - reference).max() / np.abs(reference).max()


@pytest.mark.slow
@pytest.mark.parametrize("variant", EXACT)
def test_counts_are_exact(variant):
    model = HRNet(VARIANTS[variant], PLAIN, 1000, head="cls", upsample="nearest")
    total = count(model, (224, 224))
    assert (total.conv_params, total.bn_params, total.macs) == EXACT[variant]


@pytest.mark.slow
def test_counts_of_the_head():
    """The head adds what the reference's parts have to the body of any network."""
    body = {"incre_modules": (1376320, 9600), "down": (6194944, 3584), "final": (2099200, 4096)}
    heads = [
        count_by_module(create_model(name)[0], (224, 224))["head"]
        for name in ("hrnet_cls_w18_small_v2", "gsto_hrnet_cls_w18_small_v2")
    ]
    assert heads[0] == heads[1]
    assert heads[0].conv_params == sum(conv for conv, _ in body.values()) + 2049000
    assert heads[0].bn_params == sum(norm for _, norm in body.values())


@pytest.mark.slow
def test_weights_of_other_tasks_start_a_network_and_are_started_by_it():
    """Gates that read no classes are loaded too; heads of other tasks start fresh."""
    _, variables = create_model("gsto_hrnet_cls_mini", 7, seed=1)
    gates = [path for path in flatten_dict(variables["params"], sep="/") if "gate" in path]
    for name in ("gsto_hrnet_mini", "gsto_hrnet_pose_mini"):
        options = {"gtm": ("none", "unsupervised", "unsupervised")}
        fresh = create_model(name, 5, **options)[1]
        result = transfer(variables, fresh, outputs="outputs", keep_heads=False)
        assert list(result.initialized) == ["head: not in the checkpoint"]
        loaded = {path for paths in result.loaded.values() for path in paths}
        assert gates and set(gates) <= loaded
        supervised = create_model(name, 5)[1]
        groups = transfer(variables, supervised, outputs="outputs", keep_heads=False).initialized
        assert {group.partition(":")[0] for group in groups} == {
            "head",
            "heads of GTM",
            "gates of GTM",
        }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weight_format"),
    [
        ("hrnet_cls_mini", IMAGENET_FORMAT),
        ("gsto_hrnet_cls_mini", GSTO_CLASSIFICATION_FORMAT),
    ],
)
def test_names_in_and_out(name, weight_format):
    network, variables = create_model(name, 7, seed=1)
    state = to_state_dict(variables, weight_format)
    plain = {key.removeprefix(weight_format.prefix): value for key, value in state.items()}
    assert plain["classifier.weight"].shape == (7, 128)
    assert detect_format(plain) is weight_format
    back = from_state_dict(plain, abstract_variables(network), weight_format)
    assert not back.unused and not back.initialized
    expected = flatten_dict(dict(variables), sep="/")
    for path, value in flatten_dict(back.variables, sep="/").items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-6, atol=1e-6, err_msg=path)
    other = from_state_dict(plain, create_model(name, 5)[1], weight_format)
    assert group_sizes(other.initialized) == {"7 classes in the file, 5 here": 2}


@pytest.mark.slow
def test_official_weights_start_other_tasks_and_are_started_by_them():
    plain = to_state_dict(create_model("hrnet_cls_mini", 7)[1], IMAGENET_FORMAT)
    segmentation = create_model("hrnetv2_mini", 7)[1]
    assert list(from_state_dict(plain, segmentation, IMAGENET_FORMAT).initialized) == ["head"]
    body = to_state_dict(segmentation, HRNET_FORMAT)
    result = from_state_dict(body, create_model("hrnet_cls_mini", 7)[1], HRNET_FORMAT)
    assert list(result.initialized) == ["head of HRNet-C"]
    gated = to_state_dict(create_model("gsto_hrnet_mini", 7)[1], GSTO_FORMAT)
    gated = {key.removeprefix(GSTO_FORMAT.prefix): value for key, value in gated.items()}
    options = {"gtm": ("none", "supervised", "supervised")}
    classes = create_model("gsto_hrnet_cls_mini", 7, **options)[1]
    assert list(from_state_dict(gated, classes, GSTO_FORMAT).initialized) == ["head of HRNet-C"]


def test_gated_classification_weights_start_other_tasks():
    gsto = GSTOSpec(gtm=("none", "unsupervised", "unsupervised"))
    classes = network(gsto, classes=7, head="cls")
    shapes = abstract_variables(classes)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = to_state_dict(zeros, GSTO_CLASSIFICATION_FORMAT)
    state = {key.removeprefix(GSTO_FORMAT.prefix): value for key, value in state.items()}
    other = network(GSTOSpec(), classes=5)  # supervised gates, which read class scores
    result = from_state_dict(state, abstract_variables(other), detect_format(state))
    assert set(result.initialized) == {
        "head",
        "heads of GTM",
        "gates of GTM: other inputs in the file",
    }
    assert {"classifier", "att2", "att3"} <= set(result.unused)
    assert any("fusion/gate" in path for paths in result.loaded.values() for path in paths)


@pytest.mark.slow
def test_a_wrong_classifier_is_refused():
    variables = create_model("hrnet_cls_mini", 7)[1]
    state = to_state_dict(variables, IMAGENET_FORMAT)
    with pytest.raises(UserError, match="missing the key of params/head/final/conv/kernel"):
        from_state_dict(without(state, "final_layer.0.weight"), variables, IMAGENET_FORMAT)
    wrong = state | {"classifier.weight": state["classifier.weight"][:, :9]}
    with pytest.raises(UserError, match=r"classifier\.weight has shape"):
        from_state_dict(wrong, variables, IMAGENET_FORMAT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        "w18_small_v2",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("w18", "w32", "w48")),
    ],
)
def test_timm_networks_give_the_same_logits(golden, variant):
    """Their names are read and written, classifier included."""
    arrays, name = golden("i"), f"hrnet_{variant}"
    shapes = {
        str(key): tuple(map(int, shape.split("x"))) if shape else ()
        for key, shape in zip(arrays[f"{name}/keys"], arrays[f"{name}/shapes"], strict=True)
    }
    state = weights(shapes)
    assert detect_format(state) is IMAGENET_FORMAT
    model, initial = create_model(f"hrnet_cls_{variant}")
    loaded = from_state_dict(state, initial, IMAGENET_FORMAT)
    assert not loaded.initialized and list(loaded.unused) == ["num_batches_tracked"]
    x = jnp.asarray(image().transpose(0, 2, 3, 1))
    logits = jax.jit(lambda v, x: model.apply(v, x).logits)(loaded.variables, x)
    assert deviation(logits, arrays[f"{name}/logits"]) < 1e-5
    assert np.abs(np.asarray(logits) - arrays[f"{name}/logits"]).max() < 1e-4
    expected = {key: x for key, x in state.items() if not key.endswith("num_batches_tracked")}
    assert_equal_arrays(to_state_dict(loaded.variables, IMAGENET_FORMAT), expected)
