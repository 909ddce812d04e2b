"""Test protocols: the published scores (golden h2), odd sizes, devices, and invalid options."""

from functools import partial

import jax
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.ops.taps import linear_taps
from gsto_jax.segmentation.evaluate import evaluate
from gsto_jax.segmentation.inference import batch_views, score_batch
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.protocol import EvalProtocol, window_starts
from gsto_jax.segmentation.task import eval_step
from gsto_jax.training.task import initial_state
from tests.gsto_jax.protocol_scores import MEAN, STD, convolution, image_batch, scores_of
from tests.gsto_jax.small_task import GATED, make_task

SLIDE = {"window": "slide", "crop": (64, 96), "base_size": 160}
PUBLISHED = {
    "base/s1.0": {**SLIDE, "scales": (1.0,)},
    "base/all_flip": {**SLIDE, "scales": (0.5, 1.0, 1.25), "flip": True},
    "base/s0.4_pad": {**SLIDE, "scales": (0.4,)},
    "cityscapes/all_flip": {
        **SLIDE,
        "scales": (0.5, 1.0, 1.25),
        "flip": True,
        "window": "slide_upsampled",
        "stride": 1.0,
        "edge": "shift",
    },
    "cityscapes_fullcrop/all_flip": {
        **SLIDE,
        "scales": (0.5, 1.0, 1.25),
        "flip": True,
        "window": "slide_upsampled",
        "crop": (128, 160),
        "stride": 1.0,
        "edge": "shift",
    },
}


@pytest.fixture(scope="module")
def h2(golden):
    return golden("h2")


@pytest.fixture(scope="module")
def image(h2):
    normalized = (h2["image_bgr_u8"][..., ::-1].astype(np.float32) / 255 - MEAN) / STD
    np.testing.assert_allclose(
        normalized[:16, :16].transpose(2, 0, 1), h2["input_corner_16x16"][0], atol=1e-6
    )
    return normalized


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("padded_shape", [None, (144, 192)])
def test_published_scores(h2, image, name, padded_shape):
    apply = partial(convolution, h2["conv_weight"], h2["conv_bias"], 4)
    actual = scores_of(EvalProtocol(**PUBLISHED[name]), apply, image, padded_shape)
    expected = h2[name][0].transpose(1, 2, 0)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


def test_published_flip_swaps_classes(h2):
    protocol = EvalProtocol(flip=True, flip_pairs=((14, 15), (16, 17), (18, 19)))
    kernel = h2["lip/conv_weight"]
    stride = 4 if kernel.shape[-1] == 3 else 1
    apply = partial(convolution, kernel, np.zeros(20, np.float32), stride)
    actual = scores_of(protocol, apply, h2["lip/input"][0].transpose(1, 2, 0))
    np.testing.assert_allclose(actual, h2["lip/out_flip"][0].transpose(1, 2, 0), rtol=2e-5)


@pytest.mark.parametrize("scale", ["0.4", "0.5", "1.25"])
def test_taps_equal_opencv(h2, image, scale):
    protocol = EvalProtocol(base_size=160)
    height, width = protocol.scaled((128, 160), float(scale))
    assert [height, width] == h2[f"resized_hw/{scale}"].tolist()
    rows, columns = linear_taps(128, height), linear_taps(160, width)
    resized = (image[rows.index] * rows.weight[..., None, None]).sum(1)
    resized = (resized[:, columns.index] * columns.weight[..., None]).sum(2)
    expected = h2[f"resized_hwc/{scale}"]
    actual = resized[-expected.shape[0] :, -expected.shape[1] :]
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_window_starts():
    assert window_starts(160, 96, 64, "pad") == [0, 64]
    assert window_starts(200, 96, 64, "pad") == [0, 64, 128]
    assert window_starts(200, 96, 96, "shift") == [0, 96, 104]
    assert window_starts(50, 96, 64, "pad") == window_starts(50, 96, 96, "shift") == [0]


@pytest.mark.parametrize("edge", ["pad", "shift"])
@pytest.mark.parametrize("size", [(97, 131), (40, 200), (33, 40)])
def test_identity_network_returns_the_image(size, edge):
    """Weights of overlapping and padded windows sum to 1 at every pixel."""
    image = np.random.default_rng(0).normal(size=(*size, 3)).astype(np.float32)
    protocol = EvalProtocol(window="slide", crop=(48, 64), edge=edge)
    actual = scores_of(protocol, lambda x: x, image, (100, 208))
    np.testing.assert_allclose(actual, np.exp(image), rtol=1e-5)


def test_scaled_sizes():
    assert EvalProtocol().scaled((375, 500), 0.75) == (281, 375)
    assert EvalProtocol(base_size=520).scaled((500, 375), 1.0) == (520, 390)
    assert EvalProtocol(fixed_size=(473, 473)).scaled((60, 30), 1.25) == (591, 591)
    assert EvalProtocol(
        base_size=2048, window="slide_upsampled", crop=(4, 4)
    ).is_unscaled_single_pass([(1024, 2048)])
    assert not EvalProtocol(base_size=520).is_unscaled_single_pass([(1024, 2048)])
    assert not EvalProtocol(flip=True).is_unscaled_single_pass([(8, 8)])
    assert str(EvalProtocol(scales=(0.5, 1), flip=True)) == "scales 0.5 1 + flip"


@pytest.fixture(scope="module")
def network():
    task = make_task(1, **GATED)
    return task, initial_state(task, make_mesh(jax.devices()[:1])).variables


def test_single_pass_protocol_equals_eval_step(network):
    task, variables = network
    batch = image_batch([(64, 64), (50, 41)], (64, 64))
    mesh = make_mesh(jax.devices()[:1])
    protocol = EvalProtocol(pad=None)
    actual = score_batch(task, protocol, mesh, variables, batch, [(64, 64), (50, 41)])
    labels = {"label": np.zeros((2, 64, 64), np.uint8), "mask": np.ones(2, bool)}
    _, predictions, _ = jax.jit(partial(eval_step, task))(variables, batch | labels)
    for n, (height, width) in enumerate(batch["size"].tolist()):
        ours, expected = actual[n].argmax(-1)[:height, :width], predictions[n, :height, :width]
        np.testing.assert_array_equal(ours, expected)


def test_scores_are_independent_of_the_batch():
    """Batch size, other images and devices change scores only by rounding."""
    task = make_task(1)
    variables = initial_state(task, make_mesh(jax.devices()[:1])).variables
    sizes = [(60, 41), (33, 64), (64, 64), (20, 30)]
    protocol = EvalProtocol(scales=(0.5, 1.25), flip=True, window="slide", crop=(48, 40))
    batch = image_batch(sizes, (64, 64))

    def scores(images, sizes, devices=1):
        mesh = make_mesh(jax.devices()[:devices])
        return np.asarray(score_batch(task, protocol, mesh, variables, images, sizes))

    alone = [
        scores({k: v[n : n + 1] for k, v in batch.items()}, [size])[0]
        for n, size in enumerate(sizes)
    ]
    for devices in (1, 4):
        together = scores(batch, sizes, devices)
        for n, (height, width) in enumerate(sizes):
            np.testing.assert_allclose(
                together[n, :height, :width], alone[n][:height, :width], rtol=1e-4
            )


def test_sizes_share_programs():
    """Sliding windows of all sizes share one program, and a second one at scale 1."""
    protocol = EvalProtocol(scales=(0.5, 1.0, 1.75), window="slide", crop=(48, 40))
    sizes = [(h, w) for h in (30, 47, 64) for w in (25, 64)]
    taps_by_size = {
        tuple(
            view["score_rows"].index.shape
            for view in batch_views(protocol, [size], (64, 64), sizes)
        )
        for size in sizes
    }
    assert len(taps_by_size) == 1, "every image goes through the same programs"
    shapes = {
        tuple(x.shape for x in jax.tree.leaves(view))
        for size in sizes
        for view in batch_views(protocol, [size], (64, 64), sizes)
    }
    assert len(shapes) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": "round"}, r"eval\.window must be one of whole, slide.*'round'"),
        ({"scales": ()}, r"eval\.scales must be positive"),
        ({"scales": (0.0,)}, r"eval\.scales"),
        ({"stride": 0}, r"eval\.stride .*got 0"),
        ({"window": "slide"}, r"eval\.crop .*got \(0, 0\)"),
        ({"score": "log"}, r"eval\.score .*got 'log'"),
        ({"edge": "wrap"}, r"eval\.edge"),
    ],
)
def test_invalid_protocols(changes, message):
    with pytest.raises(UserError, match=message):
        EvalProtocol(**changes)


def test_infinite_scores_do_not_spread():
    """exp of a logit above 88 is infinite; it must not spread where its weight is 0."""
    image = np.zeros((40, 40, 3), np.float32)
    image[3, 5] = 95
    protocol = EvalProtocol(window="slide", crop=(24, 24), scales=(1.0, 1.5))
    actual = scores_of(protocol, lambda x: x, image, (48, 48))
    assert np.isinf(actual[3, 5]).all()
    assert np.isfinite(actual[8:, 10:]).all()
    assert not np.isnan(actual).any()


def test_evaluation_with_sliding_windows(network):
    """Counts pixels and instances of the predictions of `score_batch`."""
    task, variables = network
    sizes = [(60, 41), (33, 64), (64, 64)]
    protocol = EvalProtocol(scales=(0.5, 1.25), flip=True, window="slide", crop=(48, 40))
    rng, mesh = np.random.default_rng(0), make_mesh(jax.devices()[:1])
    batch = image_batch([*sizes, sizes[-1]], (64, 64)) | {"mask": np.array([True] * 3 + [False])}
    batch["label"] = rng.integers(0, 3, (4, 64, 64)).astype(np.uint8)
    batch["index"] = np.arange(4, dtype=np.int32)
    batch["instance"] = rng.choice([0, 24, 24000, 24001], (4, 64, 64)).astype(np.uint16)
    for n, (height, width) in enumerate(batch["size"]):
        batch["label"][n, height:], batch["label"][n, :, width:] = 255, 255

    class Once(list):
        @property
        def sizes(self):
            return {(64, 64): set(sizes)}

    counts, outputs = InstanceCounts(("a", "a", "b"), (9.0, 0.0, 0.0), {24: 0}), []
    result = evaluate(
        task,
        variables,
        Once([batch]),
        mesh,
        protocol,
        on_batch=lambda b, p, maps: outputs.append((p, maps())),
        instances=counts,
        feature_images=-1,
    )
    actual = score_batch(task, protocol, mesh, variables, batch, set(sizes))
    predictions = np.asarray(actual).argmax(-1)
    np.testing.assert_array_equal(outputs[0][0], predictions)
    assert outputs[0][1] == {}, "no maps of windows that slide"
    expected, again = (
        np.zeros((3, 3), np.int64),
        InstanceCounts(("a", "a", "b"), (9, 0, 0), {24: 0}),
    )
    for n in range(3):
        where = (n, slice(batch["size"][n, 0]), slice(batch["size"][n, 1]))
        np.add.at(expected, (batch["label"][where], predictions[where]), 1)
        again.add(predictions[where], batch["instance"][where])
    np.testing.assert_array_equal(result.confusion, expected)
    np.testing.assert_array_equal(counts.class_counts, again.class_counts)
    assert np.isfinite(result.categories.instance_iou[0])
    # Only whole images have maps, and only as many as are asked for.
    whole, maps = EvalProtocol(flip=True), []
    for feature_images in (0, 4):
        evaluate(
            task,
            variables,
            Once([batch]),
            mesh,
            whole,
            on_batch=lambda b, p, actual: maps.append(set(actual())),
            feature_images=feature_images,
        )
    assert maps[0] == set()
    assert {"branch/0", "gate/context/bin1"} <= maps[1]
