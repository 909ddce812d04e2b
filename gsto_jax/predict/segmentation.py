"""Predicts labels of images from a checkpoint (needs OpenCV and Pillow, from the `train` extra)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from gsto_jax.drawing.heat_maps import branch_figure, gate_figure
from gsto_jax.drawing.legend import add_legend
from gsto_jax.drawing.tiles import Color, as_rgb
from gsto_jax.errors import UserError
from gsto_jax.ops.padding import PUBLISHED, SIZE_DIVISOR, crop_to_image, downscaled_size
from gsto_jax.ops.resample import Taps, linear_taps, resample
from gsto_jax.predict.base import BasePredictor
from gsto_jax.predict.media import load_pixels
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.segmentation.inference import SegmentationPrograms, score_batch
from gsto_jax.segmentation.metrics import best_class
from gsto_jax.segmentation.panels import color_mask
from gsto_jax.segmentation.protocol import EvalProtocol, protocol_from_config
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.types import Size

SEGMENTATION_OUTPUTS = ("overlay", "color", "ids", "branches", "gates")
_STRIP_ROWS = 64  # of an image that are upsampled at a time


@dataclass(frozen=True)
class Prediction:
    """Labels of an image.

    Attributes:
      image: `h w 3` uint8 RGB; of other channels see `as_rgb`.
      labels: `h w` uint8, class index of each pixel.
      features: `h_i w_i` float32 by name, "branch/0" and "gate/NAME" (see
        `gsto_jax.evaluation.forward.feature_maps`); empty without features.
      classes: names.
      palette: RGB color of each class.
    """

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    features: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    def colors(self) -> np.ndarray:
        """Colors the labels, `h w 3` uint8 RGB."""
        return color_mask(self.labels, self.palette)

    def overlay(self, opacity: float = 0.5) -> np.ndarray:
        """Blends the colored labels with the image, `h w 3` uint8 RGB."""
        return cv2.addWeighted(self.colors(), opacity, self.image, 1 - opacity, 0)

    def with_legend(self, image: np.ndarray, all_classes: bool = False) -> np.ndarray:
        """Adds a legend below an image.

        Args:
          image: `h w 3` uint8 RGB, such as `overlay` returns.
          all_classes: whether to list all classes, or only those in the labels.
        """
        present = None if all_classes else np.unique(self.labels).tolist()
        return add_legend(image, self.classes, self.palette, present)

    def render(self, output: str) -> np.ndarray:
        """Draws one of `SEGMENTATION_OUTPUTS`: `h w 3` RGB, or `h w` for "ids"; uint8."""
        draw: dict[str, Callable[[], np.ndarray]] = {
            "overlay": self.overlay,
            "color": self.colors,
            "ids": lambda: self.labels,
            "branches": lambda: branch_figure(self.image, self.features),
            "gates": lambda: gate_figure(self.image, self.features),
        }
        return draw[output]()


@dataclass(frozen=True)
class Predictor(BasePredictor):
    """A trained segmentation network with its test protocol.

    Attributes:
      trained: the network.
      protocol: test protocol.
      long_side: larger images are downscaled to this long side, in pixels, and their scores are
        upsampled; 0 for no limit.

    Example:
      >>> predictor = Predictor.load("runs/camvid_w18s")
      >>> prediction = predictor("street.jpg")
      >>> prediction.labels.shape
      (720, 960)
      >>> overlay = prediction.overlay()
    """

    task_name = "segmentation"

    protocol: EvalProtocol
    long_side: int

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        long_side: int | None = None,
        pad_to: int | str | None = None,
    ) -> "Predictor":
        """Loads a network and its test protocol.

        Args:
          checkpoint: folder of a run (its latest checkpoint), its `best`, or one checkpoint.
          long_side: see `Predictor`; None for twice the long side of the training crop.
          pad_to: overrides the option `eval.pad_to`; None keeps it, except that 32 replaces
            "published" if images are tested whole and at their own size.

        Raises:
          UserError: a missing or unreadable checkpoint, or an invalid argument.
        """
        return cls.from_trained(load_trained(checkpoint), long_side, pad_to)

    @classmethod
    def from_trained(
        cls, trained: TrainedModel, long_side: int | None = None, pad_to: int | str | None = None
    ) -> "Predictor":
        """Builds the predictor of a loaded network; see `load`."""
        if long_side is not None and long_side < 0:
            raise UserError(f"long_side must be in pixels, or 0 for no limit; got {long_side}")
        if long_side is None:
            long_side = 2 * max(trained.config["data"]["crop"])
        predictor = cls(trained, protocol_from_config(trained.config), long_side)
        overrides = _padding_overrides(trained.config) if pad_to is None else {"pad_to": pad_to}
        if not overrides:
            return predictor
        config = {**trained.config, "eval": {**trained.config["eval"], **overrides}}
        trained = replace(trained, config=config, task=task_from_config(config))
        return replace(predictor, trained=trained, protocol=protocol_from_config(config))

    @property
    def task(self) -> SegmentationTask:
        """The task of the run."""
        assert isinstance(self.trained.task, SegmentationTask)
        return self.trained.task

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.config["data"]["classes"])

    @property
    def palette(self) -> tuple[Color, ...]:
        """RGB colors of the classes."""
        return tuple(tuple(color) for color in self.config["data"]["palette"])

    def __call__(self, image: np.ndarray | str | Path, with_features: bool = False) -> Prediction:
        """Predicts the class of every pixel of an image of any size.

        Args:
          image: `h w 3` RGB, `h w` gray or `h w 4` RGBA, uint8 or uint16; a Pillow image; or the
            path of a file. With another `data.channels`, `h w c`.
          with_features: whether to return feature maps and gates as well.

        Raises:
          UserError: a file or array that is not an image.
        """
        pixels = load_pixels(image, self.decode_options)
        size = (pixels.shape[0], pixels.shape[1])
        downscaled = _downscale(pixels, downscaled_size(size, self.long_side))
        scores, features = self._scores(downscaled, with_features)
        return Prediction(
            image=as_rgb(pixels),
            labels=self._labels(scores, size),
            features=features,
            classes=self.classes,
            palette=self.palette,
        )

    def _scores(
        self, image: Float[np.ndarray, "h w c"], with_features: bool
    ) -> tuple[Float[Array, "1 h w k"], Mapping[str, Any]]:
        """Returns scores and, if asked for, features."""
        height, width = size = (image.shape[0], image.shape[1])
        padded_shape = self.protocol.padded(size)
        features: Mapping[str, Any] = {}
        is_single_pass = self.protocol.is_unscaled_single_pass([size])
        if is_single_pass:
            scores, features = self._single_pass(image, padded_shape)
        else:
            batch, net = _batch_of(image, padded_shape), self.trained
            scores = score_batch(self.task, self.protocol, net.mesh, net.variables, batch, [size])
        if with_features and not is_single_pass:
            # Features are those of one pass, at the unscaled size of the test.
            scaled = self.protocol.scaled(size, 1.0)
            resized = _resize(image, scaled, cv2.INTER_LINEAR)
            _, features = self._single_pass(resized, self.protocol.padded(scaled))
        return scores[:, :height, :width], features if with_features else {}

    def _single_pass(
        self, image: np.ndarray, padded_shape: Size
    ) -> tuple[Array, Mapping[str, Any]]:
        """Returns scores `1 h w k` of the padded image, and features without the padding."""
        programs = SegmentationPrograms.for_task(self.task, self.trained.mesh)
        batch = _batch_of(image, padded_shape)
        scores, features = programs.score_step(self.trained.variables, batch)
        size = image.shape[:2]
        return scores, {
            name: crop_to_image(np.asarray(x[0]), size, padded_shape)
            for name, x in features.items()
        }

    def _labels(self, scores: Float[Array, "1 h w k"], size: Size) -> np.ndarray:
        """Returns the labels of an image of the given size."""
        if scores.shape[1:3] == size:
            return np.asarray(_best(scores)[0])
        height = -(-size[0] // _STRIP_ROWS) * _STRIP_ROWS
        rows, columns = (linear_taps(a, b) for a, b in zip(scores.shape[1:3], size, strict=True))
        rows = rows.padded(height)
        strips = jax.tree.map(lambda x: x.reshape(-1, 1, _STRIP_ROWS, 2), rows)
        columns = jax.tree.map(lambda x: x[None], columns)
        return np.asarray(_upsampled_best(scores, strips, columns)).reshape(height, -1)[: size[0]]


def _padding_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `eval` options that suit images of any size (docs/evaluation.md).

    Published protocols do not pad, which suits the image sizes of their datasets. Protocols with
    windows or a fixed size need no padding.
    """
    evaluation, is_fixed = config["eval"], any(config["data"]["fixed_size"])
    if evaluation["pad_to"] != PUBLISHED or evaluation["window"] == "slide" or is_fixed:
        return {}
    return {"pad_to": SIZE_DIVISOR, "pad": "edge"}


def _downscale(image: np.ndarray, size: Size) -> Float[np.ndarray, "h w c"]:
    """Downscales an image to float32, since exported programs do not round to uint8."""
    image = image.astype(np.float32)
    if image.shape[:2] == size:
        return image
    return _resize(image, size, cv2.INTER_AREA)


def _resize(image: np.ndarray, size: Size, interpolation: int) -> np.ndarray:
    """Resizes `h w c` to (h, w) = `size`; OpenCV drops the axis of a single channel."""
    resized = cv2.resize(image, size[::-1], interpolation=interpolation)
    return resized.reshape(*size, image.shape[2])


def _batch_of(image: np.ndarray, padded_shape: Size) -> dict[str, np.ndarray]:
    """Returns a batch of one image, in the top left of a padded shape."""
    height, width = image.shape[:2]
    padding = ((0, 0), (0, padded_shape[0] - height), (0, padded_shape[1] - width), (0, 0))
    return {"image": np.pad(image[None], padding), "size": np.array([[height, width]], np.int32)}


_best = jax.jit(best_class)


@jax.jit
def _upsampled_best(scores: Array, strips: Taps, columns: Taps) -> Array:
    """Upsamples scores strip by strip, since the scores of a large image take gigabytes."""
    return jax.lax.map(lambda rows: _best(resample(scores, rows, columns)[0]), strips)
