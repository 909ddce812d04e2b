"""Padding to multiples: sizes, contents, mirror images, neighbors, and one pass as an export."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import (
    cityscapes_r50_aspp,
    cityscapes_w48,
    lip_w48,
    pascal_context_w48,
    quickstart,
)
from gsto_jax import UserError
from gsto_jax.config import Config
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.ops.padding import replicate_edges
from gsto_jax.ops.sizes import crop_to_image, downscaled_size, round_up, scaled_size
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import make_program
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel
from gsto_jax.segmentation.compiled_shapes import compilation_note, compiled_shapes
from gsto_jax.segmentation.inference import score_batch
from gsto_jax.segmentation.protocol import EvalProtocol, protocol_from_config
from gsto_jax.segmentation.task import normalize_padded, score_step
from modes.recipe_warnings import crop_warning
from tests.gsto_jax.protocol_scores import image_batch, scores_of
from tests.gsto_jax.small_network import convolution, image_of, make_predictor
from tests.gsto_jax.small_task import MEAN, STD, values

MESH = make_mesh(jax.devices()[:1])


def test_sizes():
    assert round_up((97, 128), 32) == (128, 128)
    assert round_up((97, 128), 0) == (97, 128)
    assert downscaled_size((480, 640), 256) == (192, 256)
    assert downscaled_size((480, 640), 0) == downscaled_size((480, 640), 640) == (480, 640)
    assert downscaled_size((1, 4000), 256) == (1, 256)
    assert scaled_size((375, 500), 0.75) == (281, 375)
    assert scaled_size((375, 500), 1.0, base_size=520) == (390, 520)
    assert scaled_size((60, 30), 1.25, fixed_size=(473, 473)) == (591, 591)


@pytest.mark.parametrize("size", [(5, 7), (8, 12), (1, 1)])
def test_edges_are_replicated(size):
    image = image_of(size)
    batch = np.zeros((1, 8, 12, 3), np.uint8)
    batch[0, : size[0], : size[1]] = image
    expected = np.pad(image, ((0, 8 - size[0]), (0, 12 - size[1]), (0, 0)), "edge")
    filled = jax.jit(replicate_edges)(batch, np.array([size]))
    np.testing.assert_array_equal(filled[0], expected)
    for pad, color in (("edge", None), ("mean", MEAN), ("black", (0, 0, 0))):
        task = make_predictor(pad=pad).task
        x = np.asarray(normalize_padded(task, jnp.asarray(batch), jnp.array([size]))[0])
        pixels = (x * np.float32(STD) + np.float32(MEAN)) * 255
        wanted = expected.astype(np.float32)
        if color is not None:
            wanted[size[0] :] = wanted[:, size[1] :] = 255 * np.float32(color)
        np.testing.assert_allclose(pixels, wanted, atol=1e-3)


@pytest.mark.parametrize("size", [(61, 75), (40, 33)])
def test_windows_show_what_np_pad_shows(size):
    image = image_of(size).astype(np.float32)
    shapes = []
    protocol = EvalProtocol(pad=None, pad_to=32)
    scores = scores_of(protocol, lambda x: shapes.append(x.shape) or x / 255, image)
    assert shapes == [(1, *round_up(size, 32), 3)]
    np.testing.assert_allclose(scores, np.exp(image / 255), rtol=1e-5)


def test_logits_of_padded_images_are_aligned():
    """A ramp stays a ramp; the published way stretches it where 4 does not divide the width."""

    def block_means(x):
        more = [(0, 0), *((0, -side % 4) for side in x.shape[1:3]), (0, 0)]
        x = jnp.pad(x, more, mode="edge")
        b, h, w, c = x.shape
        return x.reshape(b, h // 4, 4, w // 4, 4, c).mean((2, 4))

    ramp = np.tile(np.arange(61, dtype=np.float32)[None, :, None], (64, 1, 3)) / 61
    inside = (slice(None), slice(2, 56))
    padded = np.log(scores_of(EvalProtocol(pad=None, pad_to=32), block_means, ramp))
    np.testing.assert_allclose(padded[inside], ramp[inside], atol=1e-5)
    stretched = np.log(scores_of(EvalProtocol(), block_means, ramp))
    assert np.abs(stretched[inside] - ramp[inside]).max() > 1 / 61


@pytest.mark.parametrize(
    "settings",
    [
        {"pad": None},
        {"pad": MEAN},
        {"pad": None, "scales": (0.75, 1.5)},
        {"pad": None, "base_size": 75},
        {"pad": None, "fixed_size": (45, 53), "flip_pairs": ((0, 2),)},
    ],
)
def test_the_prediction_of_a_mirror_image_is_mirrored(settings):
    """Whichever side the padding lies on; left and right classes change places."""
    protocol = EvalProtocol(flip=True, pad_to=32, **settings)
    image = np.random.default_rng(0).normal(size=(61, 75, 3)).astype(np.float32)
    scores = scores_of(protocol, convolution, image)
    mirrored = scores_of(protocol, convolution, image[:, ::-1])[:, ::-1]
    order = [2, 1, 0, 3] if "flip_pairs" in settings else [0, 1, 2, 3]
    np.testing.assert_allclose(mirrored[..., order], scores, rtol=1e-4)
    once = scores_of(replace(protocol, flip=False), convolution, image)
    assert np.abs(once - scores).max() > 1e-3, "the mirror image adds something"


def test_without_padding_the_mirror_image_is_the_published_one():
    image = np.random.default_rng(0).normal(size=(64, 96, 3)).astype(np.float32)
    padded, published = (
        scores_of(EvalProtocol(flip=True, pad_to=pad_to, scales=(1.0,)), convolution, image)
        for pad_to in (32, 0)
    )
    np.testing.assert_array_equal(padded, published)


@pytest.mark.parametrize("protocol", [{}, {"scales": (0.75, 1.25)}, {"base_size": 90}])
def test_scores_depend_on_the_image_alone(protocol):
    """Scores do not depend on the sizes of other images; images of one bucket share programs."""
    predictor = make_predictor()
    protocol = EvalProtocol(pad=None, pad_to=32, **protocol)
    sizes = [(h, w) for h in (50, 61, 64) for w in (70, 75, 90, 96, 40)]
    for size in ((61, 75), (50, 96)):
        bucket = protocol.sizes_in_bucket(sizes, size)
        assert size in bucket
        assert {protocol.bucket(other) for other in bucket} == {protocol.bucket(size)}
        together = protocol.scale_plans(bucket)
        assert [plan.shape for plan in together] == [x.shape for x in protocol.scale_plans([size])]
    members = sorted(protocol.sizes_in_bucket(sizes, (61, 75)))[:3]
    shape = protocol.padded((61, 75))
    batch = image_batch(members, shape)
    scores = score_batch(predictor.trained.task, protocol, MESH, {}, batch, members)
    for n, (height, width) in enumerate(members):
        alone = {name: x[n : n + 1] for name, x in batch.items()}
        other = score_batch(predictor.trained.task, protocol, MESH, {}, alone, [members[n]])
        where = slice(height), slice(width)
        np.testing.assert_allclose(scores[n][where], other[0][where], rtol=1e-5)


def test_sliding_windows_are_multiples_too():
    protocol = EvalProtocol(window="slide", crop=(473, 50), pad_to=32, pad=None)
    assert protocol.crop == (480, 64)
    assert "slide 480x64" in str(protocol)
    assert EvalProtocol(window="slide", crop=(473, 50)).crop == (473, 50)
    image = np.random.default_rng(0).normal(size=(61, 75, 3)).astype(np.float32)
    small = EvalProtocol(window="slide", crop=(40, 30), pad_to=32, pad=None, flip=True)
    np.testing.assert_allclose(scores_of(small, lambda x: x, image), np.exp(image), rtol=1e-5)


@pytest.mark.parametrize(
    ("long_side", "settings"),
    [
        (80, {}),
        pytest.param(80, {"pad": "mean"}, marks=pytest.mark.slow),
        pytest.param(0, {"pad": "black", "pad_to": 4}, marks=pytest.mark.slow),
        (0, {"pad_to": "published"}),
        pytest.param(80, {"data": {"base_size": 90}}, marks=pytest.mark.slow),
        (80, {"data": {"fixed_size": (45, 53)}, "score": "softmax"}),
    ],
)
def test_an_export_labels_as_the_predictor_does(long_side, settings):
    """Covers odd sizes, and sizes below and above the limit, in one exported program."""
    predictor = make_predictor(long_side, **settings)

    def run(images):
        return make_program(predictor)(images)["labels"]

    spec = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, h, w, 3"), np.uint8)
    exported = jax.export.export(jax.jit(run))(spec)
    for size in [(97, 129), (33, 40)]:
        image = image_of(size)
        labels = predictor(image).labels
        assert len(np.unique(labels)) > 1
        assert (np.asarray(exported.call(image[None])[0]) == labels).mean() >= 0.999


@pytest.mark.parametrize("size", [(61, 75), (5, 103), (1, 1)])
def test_odd_sizes_with_the_default(size):
    predictor, image = make_predictor(80, flip=False), image_of(size)
    prediction = predictor(image, with_features=True)
    assert prediction.labels.shape == size
    once = jax.jit(lambda x: make_program(predictor)(x)["labels"])
    assert (np.asarray(once(image[None])[0]) == prediction.labels).mean() >= 0.999
    height, width = downscaled_size(size, 80)
    assert prediction.features["branch/0"].shape == (-(-height // 4), -(-width // 4))


def test_maps_are_cut_to_the_image():
    values = np.arange(24 * 32).reshape(24, 32)
    assert crop_to_image(values, (70, 101), (96, 128)).shape == (18, 26)
    assert crop_to_image(values[:1, :1], (1, 1), (32, 32)).shape == (1, 1)


def test_plain_scores_are_those_of_a_window():
    """The two ways through an evaluation agree at odd sizes."""
    predictor = make_predictor()
    batch = image_batch([(50, 41), (61, 64)], (64, 64))
    plain, _ = jax.jit(partial(score_step, predictor.trained.task))({}, batch)
    protocol = replace(predictor.protocol, score="softmax")
    scores = score_batch(predictor.trained.task, protocol, MESH, {}, batch, [(50, 41), (61, 64)])
    for n, (height, width) in enumerate(batch["size"]):
        where = n, slice(height), slice(width)
        np.testing.assert_allclose(scores[where], jax.nn.softmax(plain)[where], atol=1e-5)


def test_compilations_are_logged():
    sizes = {(h, w) for h in range(300, 401, 7) for w in (480, 500)}
    protocol = EvalProtocol(pad_to=32)
    assert len(compiled_shapes(protocol, sizes)) == 8
    note = compilation_note(protocol, sizes)
    assert note == (
        "30 image sizes: the network compiles for 8 shapes; eval.pad_to=64 reduces this to 3"
    )
    published = compilation_note(EvalProtocol(), sizes)
    assert published.startswith("30 image sizes: the network compiles for 30 shapes; eval.pad_to")
    assert compilation_note(protocol, [(360, 480), (365, 479)]) is None
    assert compilation_note(protocol, []) is None
    slides = EvalProtocol(window="slide", crop=(64, 64), pad_to=32)
    assert compilation_note(slides, sizes) is None
    scales = EvalProtocol(scales=(0.5, 1.0), pad_to=32)
    assert compilation_note(scales, [(64, 64)]) == "1 image size: the network compiles for 2 shapes"


def test_published_recipes_stay_published():
    recipes = ((cityscapes_r50_aspp, "black"), (lip_w48, "mean"), (pascal_context_w48, "black"))
    for module, pad in recipes:
        config = module.get_config()
        assert (config.eval.pad_to, config.eval.pad) == ("published", pad)
        assert protocol_from_config(json.loads(config.to_json())).pad_to == 0
    default = protocol_from_config(json.loads(quickstart.get_config().to_json()))
    assert (default.pad_to, default.pad) == (32, None)


@pytest.mark.parametrize("value", [0, 1, -4, 33, 10**6, "32", "publshed", 1.5, True, None])
def test_impossible_multiples(value):
    config = {name: section for name, section in values().items() if name != "data"}
    config["eval"]["pad_to"] = value
    with pytest.raises(UserError, match=r"config\.eval\.pad_to .*multiple of 4"):
        Config.from_dict(config)


def test_a_training_crop_that_does_not_divide():
    settings = make_predictor().task.config
    assert crop_warning(settings, (96, 128)) is None
    note = crop_warning(settings, (473, 130))
    assert "config.data.crop=473x130 is not divisible by 32" in note
    assert "use 480x160" in note
    published = replace(settings, eval=replace(settings.eval, pad_to="published"))
    assert crop_warning(published, (473, 473)) is None
    dilated = replace(settings.model, variant="resnet50")
    assert crop_warning(replace(settings, model=dilated), (104, 136)) is None


@pytest.mark.parametrize(
    ("module", "pad_to", "expected"),
    [
        (cityscapes_w48, None, (32, None)),  # scored whole
        (cityscapes_w48, "published", (0, (0.0, 0.0, 0.0))),
        (cityscapes_w48, 64, (64, (0.0, 0.0, 0.0))),
        (lip_w48, None, (0, MEAN)),  # trained and tested at 473x473
        (pascal_context_w48, None, (0, (0.0, 0.0, 0.0))),  # by windows
        (quickstart, None, (32, None)),
    ],
)
def test_any_image_is_padded_unless_asked_otherwise(module, pad_to, expected):
    config = json.loads(module.get_config().to_json())
    trained = TrainedModel(task_from_config(config), {}, MESH, Path("run/7"), config)
    protocol = Predictor.from_trained(trained, pad_to=pad_to).protocol
    assert (protocol.pad_to, protocol.pad) == expected
