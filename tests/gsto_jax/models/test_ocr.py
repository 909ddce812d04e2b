"""HRNet-OCR compared with the reference network (tests/golden/README.md)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import PLAIN, VARIANTS, GSTOSpec, HRNet, HRNetSpec
from gsto_jax.layers.ocr import pixel_object_relation, soft_object_regions
from gsto_jax.losses import deep_supervision
from gsto_jax.models import Count, OCRSpec, count, count_by_module
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.weights import OCR_FORMAT, from_state_dict, to_state_dict
from tests.gsto_jax.loss_settings import loss_config
from tests.gsto_jax.small_specs import TINY

ALIGN_CORNERS = ["align_true/", pytest.param("align_false/", marks=pytest.mark.long)]
ZERO_GRADIENTS = ("conv3x3_ocr.0.bias", "aux_head.0.bias")


def part(arrays, prefix):
    """Returns the arrays whose names start with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def network(arrays, dtype=jnp.float64, **kwargs):
    """Builds the network that a golden file describes, without dropout."""
    config = {name: value.tolist() for name, value in part(arrays, "config/").items()}
    spec = HRNetSpec(
        widths=tuple(config["widths"]),
        modules=tuple(config["modules"]),
        blocks=config["blocks_per_branch"],
        stage1_blocks=config["stage1_blocks"],
        stage1_planes=config["stage1_planes"],
    )
    ocr = OCRSpec(features=config["mid"], key_features=config["key"], dropout=0.0)
    dtypes = {"dtype": dtype, "param_dtype": dtype}
    classes = config["num_classes"]
    return HRNet(spec, PLAIN, classes, "ocr", ocr, implementation="xla", **dtypes, **kwargs)


def load(model, arrays):
    variables = abstract_variables(model)
    return from_state_dict(part(arrays, "state/"), variables, OCR_FORMAT).variables


def image_of(arrays):
    return jnp.asarray(arrays["input"].transpose(0, 2, 3, 1), jnp.float64)


def assert_close(values, expected, name="", atol=0.0):
    """Compares values with a reference, whose maps are `b c h w`, or `b c k 1` of objects."""
    if np.ndim(values) == 4 and np.shape(values) != np.shape(expected):
        values = np.asarray(values).transpose(0, 3, 1, 2).reshape(expected.shape)
    bound = atol or 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(values, expected, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("align", ALIGN_CORNERS)
def test_eval(golden, x64, align):
    arrays = golden("l")
    model = network(arrays, align_corners=align == "align_true/")

    @jax.jit
    def run(variables, image):
        out, state = model.apply(variables, image, capture_intermediates=True, mutable=True)
        head = state["intermediates"]["ocr"]
        modules = {name: head["context"][name] for name in ("query1", "key1", "value")}
        modules |= {"pixel_feats": head["pixel"], "ocr_out": head["fuse"]}
        taps = {name: module["__call__"][0] for name, module in modules.items()}
        taps["pixel_context"] = head["context"]["__call__"][0]
        query, key = taps["query"], taps["key"] = taps.pop("query1"), taps.pop("key1")
        regions = soft_object_regions(out.stage_logits["context"])
        relation = pixel_object_relation(query, key)
        taps["region_softmax"] = regions.reshape(2, -1, 19).swapaxes(1, 2)
        return out, taps | {"attention": relation.reshape(2, -1, 19)}

    out, taps = run(load(model, arrays), image_of(arrays))
    assert_close(out.logits, arrays[f"{align}out_main"])
    assert_close(out.stage_logits["context"], arrays[f"{align}out_aux"])
    expected = part(arrays, f"{align}tap/")
    for name in taps.keys() & expected.keys():
        assert_close(taps[name], expected[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("align", ALIGN_CORNERS)
def test_train(golden, x64, align):
    arrays, step = golden("l"), golden("l2")
    align_corners = align == "align_true/"
    model = network(arrays, align_corners=align_corners, bn_momentum=0.9)
    variables, label = load(model, arrays), jnp.asarray(step["label"])

    def loss_fn(params):
        out, updates = model.apply(
            {**variables, "params": params}, image_of(arrays), train=True, mutable=["batch_stats"]
        )
        loss, losses = deep_supervision(out, label, loss_config(), align_corners=align_corners)
        return loss, (losses, out, updates["batch_stats"])

    run = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, (losses, out, stats)), grads = run(variables["params"])
    values = {"loss": loss, "loss_aux": losses["context"], "loss_main": losses["stage4"]}
    for name, value in values.items():
        np.testing.assert_allclose(value, step[f"{align}{name}"], rtol=1e-6)
    if align_corners:
        assert_close(out.logits, step["align_true/out_main"])
        assert_close(out.stage_logits["context"], step["align_true/out_aux"])
    gradients = {
        k.removeprefix("model."): v for k, v in to_state_dict({"params": grads}, OCR_FORMAT).items()
    }
    norms = part(step, f"{align}gradnorm/")
    assert gradients.keys() == norms.keys()
    expected = part(step, f"{align}grad/")
    assert not align_corners or expected.keys() == norms.keys()
    for key, gradient in gradients.items():
        if key in ZERO_GRADIENTS:
            np.testing.assert_allclose(gradient, 0, atol=1e-12)
            continue
        np.testing.assert_allclose(np.linalg.norm(gradient), norms[key], rtol=1e-6, err_msg=key)
        if align_corners:
            assert_close(gradient, expected[key], key)
    new = part(step, f"{align}new/")
    stats = to_state_dict({"batch_stats": stats}, OCR_FORMAT)
    assert {key.removeprefix("model.") for key in stats} == new.keys()
    for key, value in stats.items():
        assert_close(value, new[key.removeprefix("model.")], key)


def test_names(golden, x64):
    """All keys of the reference are loaded, and exported again with the same values."""
    arrays = golden("l")
    variables, state = load(network(arrays, align_corners=True), arrays), part(arrays, "state/")
    exported = to_state_dict(variables, OCR_FORMAT)
    assert exported.keys() == {f"model.{key}" for key in state}
    for key, value in state.items():
        np.testing.assert_array_equal(exported[f"model.{key}"], value, err_msg=key)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 265094 + 3944


@pytest.mark.slow
def test_counts(golden):
    """Those of plain networks are the reference's; docs/context.md has those of W48."""
    assert count(network(golden("l"), jnp.float32), (64, 96)) == Count(265094, 3944, 62809088)
    page = (Path(__file__).parents[3] / "docs" / "context.md").read_text()
    gated = HRNet(VARIANTS["w48"], GSTOSpec(), 19, "ocr", implementation="xla")
    plain = HRNet(VARIANTS["w48"], PLAIN, 19, "ocr", implementation="xla")
    for model, name in ((gated, "GSTO-HRNet"), (plain, "HRNetV2")):
        total = count(model, (1024, 2048))
        row = f"| {name}-W48 with OCR | {total.conv_params} | {total.params} | {total.macs} |"
        assert row in page
    assert total == Count(70281510, 91168, 1295328935936)
    counts = count_by_module(plain, (1024, 2048))
    # The 3x3 convolution, the relation and the classifier, which the reference counts apart.
    params = 3318272 + 1179648 + 9747, 1024 + 4608
    macs = 434865438720 + 111675375616 + 1275068416
    assert counts["ocr"] == Count(*params, macs)
    assert counts["head"] == Count(532819, 1440, 69740789760)


def tiny(gsto=PLAIN, dropout=0.0, **kwargs):
    ocr = OCRSpec(features=8, key_features=4, dropout=dropout)
    return HRNet(TINY, gsto, 5, "ocr", ocr, implementation="xla", init_name="he", **kwargs)


@pytest.mark.long
def test_packed_maps_give_the_same_logits():
    packed, plain = tiny(GSTOSpec(), lanes=32), tiny(GSTOSpec())
    image = np.random.default_rng(0).standard_normal((2, 32, 64, 3)).astype(np.float32)
    assert packed.pack_factors(image.shape[1:3])[1]
    variables = initial_variables(plain, 0)
    expected, out = (jax.jit(model.apply)(variables, image) for model in (plain, packed))
    assert np.ptp(expected.logits) > 0.01
    np.testing.assert_allclose(out.logits, expected.logits, rtol=1e-5, atol=1e-4)
    context = out.stage_logits["context"]
    np.testing.assert_allclose(context, expected.stage_logits["context"], rtol=1e-5, atol=1e-4)
    assert set(out.stage_logits) == {"stage2", "stage3", "context"}
