"""Predicts images by a checkpoint alone: it carries every setting (needs the `train` extra).

predictor = Predictor.load("runs/camvid_w18s")
prediction = predictor(image)          # `h w 3` uint8 RGB, or the path of an image file
prediction.labels, prediction.overlay()
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jax import Array

from gsto_jax.drawing.heat_maps import branch_figure, gate_figure
from gsto_jax.drawing.legend import add_legend
from gsto_jax.drawing.tiles import Color
from gsto_jax.errors import UserError
from gsto_jax.ops.padding import PUBLISHED, SIZE_DIVISOR, crop_to_image, downscaled_size
from gsto_jax.ops.resample import Taps, linear_taps, resample
from gsto_jax.predict.base import BasePredictor
from gsto_jax.predict.media import load_rgb
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.segmentation.inference import SegmentationPrograms, score_batch
from gsto_jax.segmentation.metrics import best_class
from gsto_jax.segmentation.panels import color_mask
from gsto_jax.segmentation.protocol import EvalProtocol, protocol_from_config
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.types import Size

SEGMENTATION_OUTPUTS = ("overlay", "color", "ids", "branches", "gates")
_STRIP = 64  # rows of an image that are upsampled at a time


@dataclass(frozen=True)
class Prediction:
    """The labels of an image.

    Attributes:
      image: `h w 3` uint8 RGB.
      labels: class of each pixel, `h w` uint8.
      maps: of `gsto_jax.evaluation.forward.feature_maps`, `h' w'` by name; empty unless asked for.
      classes: names.
      palette: their RGB colors.
    """

    image: np.ndarray
    labels: np.ndarray
    maps: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    def colors(self) -> np.ndarray:
        """The labels in colors, `h w 3` uint8 RGB."""
        return color_mask(self.labels, self.palette)

    def overlay(self, opacity: float = 0.5) -> np.ndarray:
        """The image with the labels' colors over it, `h w 3` uint8 RGB."""
        return cv2.addWeighted(self.colors(), opacity, self.image, 1 - opacity, 0)

    def with_legend(self, image: np.ndarray, whole: bool = False) -> np.ndarray:
        """Puts a legend below an image of the prediction.

        Args:
          image: `h w 3` uint8 RGB, such as `overlay` returns.
          whole: lists all classes, in place of those that are in the image.
        """
        present = None if whole else np.unique(self.labels).tolist()
        return add_legend(image, self.classes, self.palette, present)

    def drawn(self, kind: str) -> np.ndarray:
        """An image of one of `SEGMENTATION_OUTPUTS`: `h w 3` RGB, but `h w` of "ids"; uint8."""
        draw: dict[str, Callable[[], np.ndarray]] = {
            "overlay": self.overlay,
            "color": self.colors,
            "ids": lambda: self.labels,
            "branches": lambda: branch_figure(self.image, self.maps),
            "gates": lambda: gate_figure(self.image, self.maps),
        }
        return draw[kind]()


@dataclass(frozen=True)
class Predictor(BasePredictor):
    """A trained segmentation network with its test protocol.

    Attributes:
      trained: the network.
      protocol: how an image is scored.
      long_side: images with a longer side are scaled down to it, and their scores up again; 0 for
        none.
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
        """Reads a network and its test protocol.

        Args:
          checkpoint: a run's folder, its `best`, or one checkpoint; of several the newest.
          long_side: of the largest images to score as they are; None: twice the long side of a
            training crop; 0: no limit.
          pad_to: the setting `eval.pad_to`: sides are padded to multiples of it, or "published" for
            images as they are; None: as the checkpoint says, but 32 where it says "published" and
            scores images whole and in their own size.

        Raises:
          UserError: there is no checkpoint, or it cannot be read or used.
        """
        return cls.of(load_trained(checkpoint), long_side, pad_to)

    @classmethod
    def of(
        cls, trained: TrainedModel, long_side: int | None = None, pad_to: int | str | None = None
    ) -> "Predictor":
        """Builds the predictor of a network that was read; see `load`."""
        if long_side is not None and long_side < 0:
            raise UserError(f"the long side is {long_side}: give pixels, or 0 for no limit")
        if long_side is None:
            long_side = 2 * max(trained.config["data"]["crop"])
        predictor = cls(trained, protocol_from_config(trained.config), long_side)
        changes = _for_any_image(trained.config) if pad_to is None else {"pad_to": pad_to}
        if not changes:
            return predictor
        config = {**trained.config, "eval": {**trained.config["eval"], **changes}}
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

    def __call__(self, image: np.ndarray | str | Path, explain: bool = False) -> Prediction:
        """Labels every pixel of an image of any size.

        Args:
          image: `h w 3` RGB, `h w` gray or `h w 4` RGBA, uint8 or uint16; an image of Pillow; or
            the path of a file.
          explain: also returns the maps of branches and gates.

        Raises:
          UserError: a file that is no image, or an array that is no image.
        """
        rgb = load_rgb(image, self.rule)
        size = (rgb.shape[0], rgb.shape[1])
        scores, maps = self._scores(_shrunk(rgb, downscaled_size(size, self.long_side)), explain)
        labels = self._labels(scores, size)
        return Prediction(rgb, labels, maps, self.classes, self.palette)

    def _scores(self, image: np.ndarray, explain: bool) -> tuple[Array, Mapping[str, Any]]:
        """Returns scores `1 h w k` of an image `h w 3` float32, and the maps."""
        height, width = size = (image.shape[0], image.shape[1])
        shape = self.protocol.padded(size)
        plain = self.protocol.is_unscaled_single_pass([size])
        maps: Mapping[str, Any] = {}
        if plain:
            scores, maps = self._pass(image, shape)
        else:
            batch, net = _batch_of(image, shape), self.trained
            scores = score_batch(self.task, self.protocol, net.mesh, net.variables, batch, [size])
        if explain and not plain:
            # The maps are of one pass, at the shape that the network sees anyway.
            scaled = self.protocol.scaled(size, 1.0)
            resized = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_LINEAR)
            _, maps = self._pass(resized, self.protocol.padded(scaled))
        return scores[:, :height, :width], maps if explain else {}

    def _pass(self, image: np.ndarray, shape: Size) -> tuple[Array, Mapping[str, Any]]:
        """Returns scores `1 H W k` of a padded image, and the maps of the image alone."""
        programs = SegmentationPrograms.of(self.task, self.trained.mesh)
        scores, maps = programs.score_step(self.trained.variables, _batch_of(image, shape))
        size = image.shape[:2]
        return scores, {
            name: crop_to_image(np.asarray(x[0]), size, shape) for name, x in maps.items()
        }

    def _labels(self, scores: Array, size: Size) -> np.ndarray:
        if scores.shape[1:3] == size:
            return np.asarray(_best(scores)[0])
        height = -(-size[0] // _STRIP) * _STRIP
        rows, columns = (linear_taps(a, b) for a, b in zip(scores.shape[1:3], size, strict=True))
        rows = rows.padded(height)
        strips = jax.tree.map(lambda x: x.reshape(-1, 1, _STRIP, 2), rows)
        across = jax.tree.map(lambda x: x[None], columns)
        return np.asarray(_upsampled_best(scores, strips, across)).reshape(height, -1)[: size[0]]


def _for_any_image(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of `eval` that label images of any size best (docs/evaluation.md).

    A published protocol keeps images as they are, for the published scores on its own dataset. A
    network that was trained and is tested at one fixed size keeps that size.
    """
    evaluation, is_fixed = config["eval"], any(config["data"]["fixed_size"])
    if evaluation["pad_to"] != PUBLISHED or evaluation["window"] == "slide" or is_fixed:
        return {}
    return {"pad_to": SIZE_DIVISOR, "pad": "edge"}


def _shrunk(image: np.ndarray, size: Size) -> np.ndarray:
    """Scales an image down to `h w 3` float32; not to uint8, so that exports can do the same."""
    image = image.astype(np.float32)
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _batch_of(image: np.ndarray, shape: Size) -> dict[str, np.ndarray]:
    """Returns a batch of one image in the top left corner of a padded shape."""
    height, width = image.shape[:2]
    more = ((0, 0), (0, shape[0] - height), (0, shape[1] - width), (0, 0))
    return {"image": np.pad(image[None], more), "size": np.array([[height, width]], np.int32)}


_best = jax.jit(best_class)


@jax.jit
def _upsampled_best(scores: Array, strips: Taps, columns: Taps) -> Array:
    """Resamples scores and takes the best, strip by strip: all of a large image is gigabytes."""
    return jax.lax.map(lambda rows: _best(resample(scores, rows, columns)[0]), strips)
