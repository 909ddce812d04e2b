"""Class probabilities, confidence, entropy, and pixels that are unsure."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.predict.files import PredictionWriter, write_classes
from gsto_jax.predict.measures import measure
from gsto_jax.predict.outputs import MEASURES, SEGMENTATION_OUTPUTS
from gsto_jax.segmentation.panels import IGNORED
from tests.gsto_jax.small_network import image_of, make_predictor

SIZE = (40, 61)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def expected_measures(probabilities):
    safe = np.maximum(probabilities, 1e-30)
    entropy = -(probabilities * np.log(safe)).sum(-1) / np.log(probabilities.shape[-1])
    return {
        "labels": probabilities.argmax(-1),
        "probabilities": probabilities,
        "confidence": probabilities.max(-1),
        "entropy": entropy,
    }


@pytest.mark.parametrize("are_logits", [True, False])
def test_measures_equal_numpy(are_logits):
    logits = 4 * np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    scores = logits if are_logits else 5 * np.exp(logits)
    results = measure(scores, are_logits, MEASURES)
    for name, expected in expected_measures(softmax(logits.astype(np.float64))).items():
        tolerance = 1e-3 if name == "probabilities" else 1e-5
        np.testing.assert_allclose(results[name], expected, atol=tolerance, err_msg=name)
    assert {k: v.dtype for k, v in results.items()} == {
        "labels": np.uint8,
        "probabilities": np.float16,
        "confidence": np.float32,
        "entropy": np.float32,
    }
    assert [*measure(scores, are_logits, ("entropy",))] == ["entropy", "labels"]


def test_extreme_scores():
    """Infinite exponentials share the probability; classes without a score are alike."""
    scores = np.array([[np.inf, 0, np.inf, 1], [0, 0, 0, 0], [0, 0, 0, 5]], np.float32)
    results = measure(scores, False, MEASURES)
    expected = [[0.5, 0, 0.5, 0], [0.25] * 4, [0, 0, 0, 1]]
    np.testing.assert_allclose(results["probabilities"], expected, atol=1e-6)
    np.testing.assert_allclose(results["entropy"], [0.5, 1, 0], atol=1e-6)
    assert results["labels"].tolist() == [0, 0, 3]


PROTOCOLS = pytest.mark.parametrize(
    "evaluation",
    [
        {},
        {"scales": (0.5, 1.0), "flip": True},
        {"window": "slide", "crop": (32, 32), "score": "softmax"},
    ],
    ids=["single", "scales+flip", "windows"],
)


@PROTOCOLS
def test_probabilities_under_a_protocol(evaluation):
    """They sum to 1, agree with the labels, and are the normalized scores."""
    predictor = make_predictor(**evaluation)
    image = image_of(SIZE)
    result = predictor(image, measures=MEASURES)
    np.testing.assert_allclose(result.probabilities.astype(np.float32).sum(-1), 1, atol=2e-3)
    scores = np.asarray(predictor._scores(image.astype(np.float32), False)[0][0], np.float64)
    summed = np.exp(scores) if not evaluation else scores
    expected = expected_measures(summed / summed.sum(-1, keepdims=True))
    for name in MEASURES:
        tolerance = 1e-3 if name == "probabilities" else 1e-5
        np.testing.assert_allclose(getattr(result, name), expected[name], atol=tolerance)
    np.testing.assert_array_equal(result.labels, expected["labels"])
    np.testing.assert_array_equal(result.labels, predictor(image).labels)
    assert predictor(image).confidence is None


def test_measures_of_a_downscaled_image():
    predictor = make_predictor(long_side=40)
    large = image_of((80, 122))
    result = predictor(large, measures=MEASURES)
    assert result.probabilities.shape == (80, 122, 4) and result.entropy.shape == (80, 122)
    np.testing.assert_array_equal(result.labels, predictor(large).labels)
    np.testing.assert_allclose(
        result.probabilities.max(-1).astype(np.float32), result.confidence, atol=1e-3
    )


def test_unsure_pixels(tmp_path):
    image = image_of(SIZE)
    plain = make_predictor()(image, measures=["confidence"])
    threshold = float(np.median(plain.confidence))
    predictor = make_predictor(options={"unsure_below": threshold})
    result = predictor(image)
    unsure = plain.confidence < threshold
    label = predictor.task.ignore_label
    assert result.unsure_label == label and 0.4 < unsure.mean() < 0.6
    assert result.unsure_count == unsure.sum()
    np.testing.assert_array_equal(result.labels, np.where(unsure, label, plain.labels))
    np.testing.assert_array_equal(result.colors()[unsure], np.tile(IGNORED, (unsure.sum(), 1)))
    legend = result.with_legend(result.overlay())
    assert (legend == IGNORED).all(-1).any() and legend.shape[0] > SIZE[0]
    write_classes(tmp_path, result.classes, result.palette, label)
    assert (tmp_path / "classes.csv").read_text().endswith(f"{label},unsure,90,90,90\n")
    with pytest.raises(UserError, match="other classes"):
        write_classes(tmp_path, result.classes, result.palette)


def test_written_measures(tmp_path):
    """Confidence and entropy are gray images, 255 times the value; probabilities an array."""
    result = make_predictor()(image_of(SIZE), measures=MEASURES)
    outputs = [*MEASURES, "uncertainty"]
    writer = PredictionWriter(tmp_path, outputs, SEGMENTATION_OUTPUTS)
    writer.write("a/b", result)
    for name in ("confidence", "entropy"):
        gray = cv2.imread(str(tmp_path / name / "a/b.png"), cv2.IMREAD_UNCHANGED)
        assert gray.dtype == np.uint8
        np.testing.assert_allclose(gray / 255, getattr(result, name), atol=0.51 / 255)
    stored = np.load(tmp_path / "probabilities/a/b.npy", mmap_mode="r")
    np.testing.assert_array_equal(stored, result.probabilities)
    assert cv2.imread(str(tmp_path / "uncertainty/a/b.jpg")).shape == (*SIZE, 3)
    writer.write_video("film", 5, iter([result, result]))
    frames = sorted(path.name for path in (tmp_path / "entropy/film.mp4").iterdir())
    assert frames == ["000000.png", "000001.png"]
    stored = np.load(tmp_path / "probabilities/film.mp4/000001.npy")
    np.testing.assert_array_equal(stored, result.probabilities)
    assert (tmp_path / "uncertainty/film.mp4").stat().st_size


def test_entropy_over_the_image():
    """Sure pixels are blue, unsure ones red."""
    result = make_predictor()(image_of(SIZE), measures=["entropy"])
    ramp = np.linspace(0, 1, SIZE[1], dtype=np.float32)[None].repeat(SIZE[0], 0)
    drawn = replace(result, entropy=ramp).uncertainty().astype(int)
    assert drawn[0, 0, 2] > drawn[0, 0, 0] and drawn[0, -1, 0] > drawn[0, -1, 2]
    with pytest.raises(ValueError, match="'confidence'"):
        result.render("confidence")


def test_invalid_measures():
    with pytest.raises(UserError, match=r"measures must be some of probabilities, .*'ids'"):
        make_predictor()(image_of(SIZE), measures=["ids"])
    for name, value in (("unsure_below", 1.5), ("tile", -1), ("tile_overlap", 0.6)):
        with pytest.raises(UserError, match=rf"{name} must be .*; got {value}"):
            make_predictor(options={name: value})
    for name, value in (("base_size", 100), ("fixed_size", (9, 9))):
        with pytest.raises(UserError, match=rf"config\.data\.{name}"):
            make_predictor(options={"tile": 64}, data={name: value})
    with pytest.raises(UserError, match="with_features"):
        make_predictor(options={"tile": 64})(image_of(SIZE), with_features=True)
