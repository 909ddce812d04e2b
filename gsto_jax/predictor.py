"""Predicts pictures by a checkpoint alone: it carries every setting (needs the `train` extra).

predictor = Predictor.load("runs/camvid_w18s")
prediction = predictor(image)          # `h w 3` uint8 RGB, or the path of an image file
prediction.labels, prediction.overlay()
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.canvas import Color
from gsto_jax.errors import UserError
from gsto_jax.figures import branch_figure, gate_figure
from gsto_jax.image_files import ImageRule
from gsto_jax.inference import score_batch
from gsto_jax.loading import Trained, load_trained
from gsto_jax.media import load_rgb
from gsto_jax.metrics import best_class
from gsto_jax.parallel import compiler_options, on_mesh
from gsto_jax.protocol import Protocol, Size, linear_taps, protocol_of
from gsto_jax.reporting import ReportedProgram
from gsto_jax.resample import resample
from gsto_jax.task import Task, score_step
from gsto_jax.visualize import color_mask

KINDS = ("overlay", "color", "ids", "branches", "gates")
_STRIP = 64  # rows of a picture that are enlarged at a time


@dataclass(frozen=True)
class Prediction:
    """What a network sees in a picture.

    Attributes:
      image: the picture, `h w 3` uint8 RGB.
      labels: class of each pixel, `h w` uint8.
      maps: of `gsto_jax.task.score_step`, `h' w'` float32 by name; empty unless asked for.
      classes: names.
      palette: their colours.
    """

    image: np.ndarray
    labels: np.ndarray
    maps: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    def colors(self) -> np.ndarray:
        """The labels in colours, `h w 3` uint8 RGB."""
        return color_mask(self.labels, self.palette)

    def overlay(self, opacity: float = 0.5) -> np.ndarray:
        """The picture with the labels' colours over it, `h w 3` uint8 RGB."""
        return cv2.addWeighted(self.colors(), opacity, self.image, 1 - opacity, 0)

    def drawn(self, kind: str) -> np.ndarray:
        """A picture of one of `KINDS`: `h w 3` RGB, but `h w` of "ids"; uint8."""
        draw: dict[str, Callable[[], np.ndarray]] = {
            "overlay": self.overlay,
            "color": self.colors,
            "ids": lambda: self.labels,
            "branches": lambda: branch_figure(self.image, self.maps),
            "gates": lambda: gate_figure(self.image, self.maps),
        }
        return draw[kind]()


@dataclass(frozen=True)
class Predictor:
    """A trained network and how it looks at pictures.

    Attributes:
      task: what was trained.
      variables: of the network.
      protocol: how a picture is looked at.
      long_side: pictures with a longer side are scaled down to it, and their scores up again; 0
        for none.
      classes: names.
      palette: their colours.
      mesh: the device to work on.
      path: of the checkpoint.
      config: all settings of the run.
    """

    task: Task
    variables: Any
    protocol: Protocol
    long_side: int
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    mesh: Mesh
    path: Path
    config: Mapping[str, Any]

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        long_side: int | None = None,
        multiple: int = 1,
        defaults: Mapping[str, Any] | None = None,
    ) -> "Predictor":
        """Reads a network and its test protocol.

        Args:
          checkpoint: a run's folder, its `best`, or one checkpoint; of several the newest.
          long_side: of the largest pictures to look at as they are; None: twice the long side of a
            training crop; 0: no limit.
          multiple: see `gsto_jax.protocol.Protocol`.
          defaults: of settings that the checkpoint is too old to hold.

        Raises:
          UserError: there is no checkpoint, or it cannot be read or used.
        """
        if long_side is not None and long_side < 0:
            raise UserError(f"the long side is {long_side}: give pixels, or 0 for no limit")
        if multiple < 1:
            raise UserError(f"sides cannot be multiples of {multiple}: give 1 or more")
        return cls.of(load_trained(checkpoint, defaults), long_side, multiple)

    @classmethod
    def of(cls, trained: Trained, long_side: int | None = None, multiple: int = 1) -> "Predictor":
        """Of a network that was read; see `load`. Raises UserError if it is of another task."""
        task, config = trained.task, trained.config
        if task.config.task != "segmentation":
            raise UserError(
                f"checkpoint {trained.path} is of a {task.config.task} task: use "
                "gsto_jax.pose.predictor.PosePredictor"
            )
        data = config["data"]
        return cls(
            task,
            trained.variables,
            replace(protocol_of(config), multiple=multiple),
            2 * max(data["crop"]) if long_side is None else long_side,
            tuple(data["classes"]),
            tuple(tuple(color) for color in data["palette"]),
            trained.mesh,
            trained.path,
            config,
        )

    @property
    def rule(self) -> ImageRule:
        """How image files become RGB, as in training."""
        return ImageRule.of(self.config["data"])

    @property
    def has_gates(self) -> bool:
        """Whether the network gates anything."""
        return self.task.config.model.has_gates

    def working_size(self, size: Size) -> Size:
        """Height and width at which a picture of this size is looked at, at scale 1."""
        return self.protocol.scaled(self._reduced_size(size), 1.0)

    def _reduced_size(self, size: Size) -> Size:
        if not 0 < self.long_side < max(size):
            return size
        ratio = self.long_side / max(size)
        return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))

    def __call__(self, image: np.ndarray | str | Path, explain: bool = False) -> Prediction:
        """Labels every pixel of a picture of any size.

        Args:
          image: `h w 3` RGB, `h w` grey or `h w 4` RGBA, uint8 or uint16; or the path of a file.
          explain: also returns the maps of branches and gates.

        Raises:
          UserError: a file that is no image, or an array that is no picture.
        """
        picture = load_rgb(image, self.rule)
        size = (picture.shape[0], picture.shape[1])
        scores, maps = self._scores(_shrunk(picture, self._reduced_size(size)), explain)
        labels = self._labels(scores, size)
        found = {name: np.asarray(values[0]) for name, values in maps.items()}
        return Prediction(picture, labels, found, self.classes, self.palette)

    def _scores(self, picture: np.ndarray, explain: bool) -> tuple[Array, Mapping[str, Array]]:
        """Scores `1 h w k` of a picture, with padding beside it, and the maps."""
        height, width = size = (picture.shape[0], picture.shape[1])
        batch = {"image": picture[None], "size": np.array([size], np.int32)}
        maps: Mapping[str, Array] = {}
        plain = self.protocol.is_plain([size])
        if plain:
            scores, maps = _scoring(self.task, self.mesh)(self.variables, batch)
        elif explain:
            # The maps are of one look, at the shape that the network sees anyway.
            shape = self.protocol.scaled(size, 1.0)
            shown = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_LINEAR)
            seen = {"image": shown[None], "size": np.array([shape], np.int32)}
            _, maps = _scoring(self.task, self.mesh)(self.variables, seen)
        if not plain:
            # A canvas adds nothing to one picture's scores: its sides may be multiples too.
            more = [-side % self.protocol.multiple for side in size]
            image = np.pad(batch["image"], ((0, 0), (0, more[0]), (0, more[1]), (0, 0)))
            batch = batch | {"image": image}
            together = [size]
            scores = score_batch(
                self.task, self.protocol, self.mesh, self.variables, batch, together
            )
        return scores[:, :height, :width], maps if explain else {}

    def _labels(self, scores: Array, size: Size) -> np.ndarray:
        if scores.shape[1:3] == size:
            return np.asarray(_best(scores)[0])
        height = -(-size[0] // _STRIP) * _STRIP
        rows, columns = (linear_taps(a, b) for a, b in zip(scores.shape[1:3], size, strict=True))
        strips = {
            "index": rows.padded(height).index.reshape(-1, 1, _STRIP, 2),
            "weight": rows.padded(height).weight.reshape(-1, 1, _STRIP, 2),
        }
        across = {"index": columns.index[None], "weight": columns.weight[None]}
        return np.asarray(_enlarged_best(scores, strips, across)).reshape(height, -1)[: size[0]]


def _shrunk(picture: np.ndarray, size: Size) -> np.ndarray:
    if picture.shape[:2] == size:
        return picture
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=4)
def _scoring(task: Task, mesh: Mesh) -> Any:
    program = jax.jit(
        on_mesh(partial(score_step, task.on(mesh)), mesh), compiler_options=compiler_options(mesh)
    )
    return ReportedProgram(program, "the network")


_best = jax.jit(best_class)


@jax.jit
def _enlarged_best(scores: Array, strips: Mapping[str, Array], columns: Any) -> Array:
    """Resamples scores and takes the best, strip by strip: all of a large picture is gigabytes."""
    return jax.lax.map(lambda rows: _best(resample(scores, rows, columns)[0]), strips)
