"""Predicts labels of images with an exported program, by ONNX Runtime without JAX.

Needs NumPy, OpenCV and Pillow, and jaxtyping.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gsto_jax.drawing.tiles import Color, as_rgb
from gsto_jax.errors import UserError
from gsto_jax.ops.sizes import PUBLISHED, downscaled_size, round_up, scaled_size
from gsto_jax.ops.taps import linear_taps
from gsto_jax.predict.exported_base import BaseExportedPredictor
from gsto_jax.predict.media import load_pixels
from gsto_jax.predict.outputs import MEASURES
from gsto_jax.predict.prediction import Prediction
from gsto_jax.types import Size

_STRIP_ROWS = 64  # of an image whose probabilities are computed at a time


@dataclass(frozen=True)
class ExportedPredictor(BaseExportedPredictor):
    """An exported segmentation network; predicts as `gsto_jax.predict.segmentation.Predictor`.

    Attributes:
      program: the program.
      unsure_below: probability in 0..1: pixels whose largest class probability is below it get the
        ignore label; 0 for none.

    Raises:
      UserError: a program of another task, or an invalid value.

    Example:
      >>> predictor = ExportedPredictor.load("export/model.onnx")
      >>> labels = predictor("street.jpg").labels
    """

    task_name = "segmentation"

    unsure_below: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.unsure_below <= 1:
            raise UserError(f"unsure_below must be a probability in 0..1; got {self.unsure_below}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.program.description["classes"])

    @property
    def palette(self) -> tuple[Color, ...]:
        """RGB colors of the classes."""
        return tuple(tuple(color) for color in self.program.description["palette"])

    @property
    def ignore_label(self) -> int:
        """Label of ignored and of unsure pixels."""
        return int(self.program.description["settings"]["data"]["ignore_label"])

    def __call__(
        self, image: np.ndarray | str | Path, measures: Collection[str] = ()
    ) -> Prediction:
        """Predicts the class of every pixel of an image.

        Args:
          image: as of `Predictor`.
          measures: as of `Predictor`.

        Raises:
          UserError: a file or array that is not an image, an image whose size the program does not
            take, or an unknown measure.
        """
        if unknown := [name for name in measures if name not in MEASURES]:
            raise UserError(f"measures must be some of {', '.join(MEASURES)}; got {unknown[0]!r}")
        pixels = load_pixels(image, self.decode_options)
        self.program.check_size((pixels.shape[0], pixels.shape[1]))
        outputs = self.program.call({"image": pixels[None]})
        labels, values = outputs["labels"][0], {}
        needed = {*measures, *(("confidence",) if self.unsure_below else ())}
        if needed:
            logits = outputs["logits"][0].astype(np.float32, copy=False)
            values = self._measure(logits, labels.shape, needed)
        unsure_label = None
        if self.unsure_below:
            unsure_label = self.ignore_label
            is_unsure = values["confidence"] < np.float32(self.unsure_below)
            labels = np.where(is_unsure, np.uint8(unsure_label), labels)
        return Prediction(
            image=as_rgb(pixels),
            labels=labels,
            features={},
            classes=self.classes,
            palette=self.palette,
            unsure_label=unsure_label,
            **values,
        )

    def _measure(
        self, logits: Float[np.ndarray, "h w k"], size: Size, names: Collection[str]
    ) -> dict[str, np.ndarray]:
        """Computes measures of an image of a size, as `gsto_jax.predict.measures`, in strips."""
        scores, are_logits = self._scores(logits, size)
        columns = linear_taps(scores.shape[1], size[1])
        rows = linear_taps(scores.shape[0], size[0])
        values = {
            name: np.empty((*size, scores.shape[2]), np.float16)
            if name == "probabilities"
            else np.empty(size, np.float32)
            for name in names
        }
        for start in range(0, size[0], _STRIP_ROWS):
            strip = slice(start, start + _STRIP_ROWS)
            upsampled = _resample(scores, rows.index[strip], rows.weight[strip], 0)
            upsampled = _resample(upsampled, columns.index, columns.weight, 1)
            for name, value in measure(upsampled, are_logits, names).items():
                values[name][strip] = value
        return values

    def _scores(
        self, logits: Float[np.ndarray, "h w k"], size: Size
    ) -> tuple[Float[np.ndarray, "h2 w2 k"], bool]:
        """Returns the scores of the downscaled image, and whether they are logits."""
        steps = self.program.description["preprocessing"]
        settings = self.program.description["settings"]
        downscaled = downscaled_size(size, steps["long_side"])
        test_size = scaled_size(downscaled, 1.0, steps["base_size"], steps["fixed_size"])
        pad_to = 0 if steps["pad_to"] == PUBLISHED else steps["pad_to"]
        scores = _resize(logits, round_up(test_size, pad_to), settings["model"]["align_corners"])
        scores = scores[: test_size[0], : test_size[1]]
        if not steps["base_size"] and not any(steps["fixed_size"]):
            return scores, True
        if settings["eval"]["score"] == "exp":
            return _resize(np.exp(scores), downscaled), False
        return _resize(class_probabilities(scores, are_logits=True), downscaled), False


def measure(
    scores: Float[np.ndarray, "*shape k"], are_logits: bool, names: Collection[str]
) -> dict[str, np.ndarray]:
    """Computes measures of every pixel, as `gsto_jax.predict.measures.measure`."""
    probabilities = class_probabilities(scores, are_logits)
    results = {}
    if "probabilities" in names:
        results["probabilities"] = probabilities.astype(np.float16)
    if "confidence" in names:
        results["confidence"] = probabilities.max(-1)
    if "entropy" in names:
        logarithms = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
        entropy = -(probabilities * logarithms).sum(-1)
        results["entropy"] = np.clip(entropy / np.log(np.float32(scores.shape[-1])), 0, 1)
    return results


def class_probabilities(
    scores: Float[np.ndarray, "*shape k"], are_logits: bool
) -> Float[np.ndarray, "*shape k"]:
    """Normalizes scores to probabilities, as `gsto_jax.predict.measures.class_probabilities`."""
    if are_logits:
        scores = np.exp(scores - scores.max(-1, keepdims=True))
    else:
        limits = np.finfo(scores.dtype)
        scores = np.clip(scores, limits.tiny, limits.max / (8 * scores.shape[-1]))
    return scores / scores.sum(-1, keepdims=True)


def _resize(
    x: Float[np.ndarray, "h w k"], size: Size, align_corners: bool = False
) -> Float[np.ndarray, "h2 w2 k"]:
    for axis in (0, 1):
        taps = linear_taps(x.shape[axis], size[axis], align_corners)
        if x.shape[axis] != size[axis]:
            x = _resample(x, taps.index, taps.weight, axis)
    return x


def _resample(
    x: Float[np.ndarray, "h w k"], index: np.ndarray, weight: np.ndarray, axis: int
) -> Float[np.ndarray, "h2 w2 k"]:
    """Resamples one axis by taps `n 2`."""
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    lower, upper = (x.take(index[:, n], axis) * weight[:, n].reshape(shape) for n in (0, 1))
    return lower + upper
