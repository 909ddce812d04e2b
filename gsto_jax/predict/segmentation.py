"""Predicts labels of images from a checkpoint (needs OpenCV and Pillow, from the `train` extra)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from gsto_jax import progress
from gsto_jax.drawing.tiles import Color, as_rgb
from gsto_jax.errors import UserError
from gsto_jax.ops.sizes import PUBLISHED, SIZE_DIVISOR, crop_to_image, downscaled_size, round_up
from gsto_jax.ops.taps import linear_taps
from gsto_jax.predict.base import BasePredictor
from gsto_jax.predict.measures import measure, measure_upsampled
from gsto_jax.predict.media import downscale, load_pixels, resize_image
from gsto_jax.predict.outputs import MEASURES
from gsto_jax.predict.prediction import Prediction
from gsto_jax.predict.row_readers import ArrayRows, RowReader
from gsto_jax.predict.tile_plan import StripReader, Tile, blend, plan_tiles
from gsto_jax.predict.tile_scores import TileScores
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.segmentation.inference import SegmentationPrograms, score_batch
from gsto_jax.segmentation.protocol import EvalProtocol, protocol_from_config
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.types import Size

DEFAULT_OVERLAP = 0.25
"""Overlap of neighboring tiles, as a fraction of their side."""
_STRIP_ROWS = 64  # of an image that are upsampled at a time
_STRIP_BYTES = 2**26  # of the probabilities of a tile that are summed at a time


@dataclass(frozen=True)
class Predictor(BasePredictor):
    """A trained segmentation network with its test protocol.

    Attributes:
      trained: the network.
      protocol: test protocol.
      long_side: larger images are downscaled to this long side, in pixels, and their scores are
        upsampled; 0 for no limit. Tiles are never downscaled.
      unsure_below: pixels whose largest class probability is below this get the label
        `data.ignore_label`; 0 for none.
      tile: images with a longer side are predicted in overlapping tiles of this side, in pixels,
        rounded up to a multiple of 32; 0 for none.
      tile_overlap: overlap of neighboring tiles as a fraction of their side, rounded to a multiple
        of 32 pixels; class probabilities are blended there.

    Raises:
      UserError: an invalid value, or tiles with a test protocol that resizes images.

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
    unsure_below: float = 0.0
    tile: int = 0
    tile_overlap: float = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, valid, expected in (
            ("long_side", self.long_side >= 0, "in pixels, or 0 for no limit"),
            ("unsure_below", 0 <= self.unsure_below <= 1, "a probability in 0..1"),
            ("tile", self.tile >= 0, "in pixels, or 0 for none"),
            ("tile_overlap", 0 <= self.tile_overlap <= 0.5, "a fraction of a tile in 0..0.5"),
        ):
            if not valid:
                raise UserError(f"{name} must be {expected}; got {getattr(self, name)}")
        if self.tile:
            self.check_tiles()

    def check_tiles(self) -> None:
        """Raises UserError if the test protocol resizes images, which tiles do not stand for."""
        for name in ("base_size", "fixed_size"):
            value = getattr(self.protocol, name)
            if np.any(value):
                raise UserError(
                    f"a tile needs a network tested at the size of the image; got {self.checkpoint}"
                    f", with config.data.{name}={value}"
                )

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        long_side: int | None = None,
        pad_to: int | str | None = None,
        **options: Any,
    ) -> "Predictor":
        """Loads a network and its test protocol.

        Args:
          checkpoint: folder of a run (its latest checkpoint), its `best`, or one checkpoint.
          long_side: see `Predictor`; None for twice the long side of the training crop.
          pad_to: overrides the option `eval.pad_to`; None keeps it, except that 32 replaces
            "published" if images are tested whole and at their own size.
          **options: other attributes of `Predictor`: `unsure_below`, `tile`, `tile_overlap`.

        Raises:
          UserError: a missing or unreadable checkpoint, or an invalid argument.
        """
        return cls.from_trained(load_trained(checkpoint), long_side, pad_to, **options)

    @classmethod
    def from_trained(
        cls,
        trained: TrainedModel,
        long_side: int | None = None,
        pad_to: int | str | None = None,
        **options: Any,
    ) -> "Predictor":
        """Builds the predictor of a loaded network; see `load`."""
        if long_side is None:
            long_side = 2 * max(trained.config["data"]["crop"])
        predictor = cls(trained, protocol_from_config(trained.config), long_side, **options)
        overrides = _padding_overrides(trained.config) if pad_to is None else {"pad_to": pad_to}
        if not overrides:
            return predictor
        config = {**trained.config, "eval": {**trained.config["eval"], **overrides}}
        trained = replace(trained, config=config, task=task_from_config(config))
        return replace(predictor, trained=trained, protocol=protocol_from_config(config))

    @property
    def tile_side(self) -> int:
        """Side of a tile in pixels, a multiple of 32 of at least 64; without `tile` the default."""
        side = max(self.tile or 2 * max(self.config["data"]["crop"]), 2 * SIZE_DIVISOR)
        return round_up((side, side), SIZE_DIVISOR)[0]

    @property
    def tile_shared(self) -> int:
        """Overlap of neighboring tiles in pixels, a multiple of 32."""
        most = self.tile_side // 2 // SIZE_DIVISOR
        return min(round(self.tile_overlap * self.tile_side / SIZE_DIVISOR), most) * SIZE_DIVISOR

    @property
    def task(self) -> SegmentationTask:
        """The task of the run."""
        assert isinstance(self.trained.task, SegmentationTask)
        return self.trained.task

    @property
    def ignore_label(self) -> int:
        """Label of ignored and of unsure pixels."""
        return self.task.ignore_label

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.config["data"]["classes"])

    @property
    def palette(self) -> tuple[Color, ...]:
        """RGB colors of the classes."""
        return tuple(tuple(color) for color in self.config["data"]["palette"])

    def __call__(
        self,
        image: np.ndarray | str | Path,
        with_features: bool = False,
        measures: Collection[str] = (),
    ) -> Prediction:
        """Predicts the class of every pixel of an image of any size.

        Args:
          image: `h w 3` RGB, `h w` gray or `h w 4` RGBA, uint8 or uint16; a Pillow image; or the
            path of a file. With another `data.channels`, `h w c`.
          with_features: whether to return feature maps and gates as well; not with tiles.
          measures: what to return of the class probabilities as well: some of "probabilities",
            "confidence" and "entropy".

        Raises:
          UserError: a file or array that is not an image, or an unknown measure.
        """
        pixels = load_pixels(image, self.decode_options)
        if self.tile:
            if with_features:
                raise UserError("with_features must be False with a tile; got True")
            return _join(list(self.predict_rows(ArrayRows(pixels), measures)))
        size = (pixels.shape[0], pixels.shape[1])
        downscaled = downscale(pixels, downscaled_size(size, self.long_side))
        scores, features = self._scores(downscaled, with_features)
        results = self._measure(scores, size, self._names(measures))
        return self._prediction(pixels, results, features)

    def predict_rows(
        self, image: RowReader, measures: Collection[str] = ()
    ) -> Iterator[Prediction]:
        """Predicts an image of any size in tiles, and yields it from top to bottom.

        Memory is bounded by the scores of a tile, and pixels and results of a row of tiles. The
        probabilities of the overlap with the next row are in memory up to `MAX_OVERLAP_BYTES` of
        `gsto_jax.predict.tile_plan`, else in a temporary file.

        Args:
          image: reads rows of the image.
          measures: as of `__call__`.

        Yields:
          Predictions of successive rows, which together are the image.

        Raises:
          UserError: the image cannot be read, the test protocol resizes images, or an unknown
            measure.
        """
        self.check_tiles()
        names = self._names(measures)
        height, width = image.size
        rows, columns = (
            plan_tiles(length, self.tile_side, self.tile_shared, SIZE_DIVISOR)
            for length in (height, width)
        )
        row_bytes = 4 * self.tile_side * self.task.num_classes
        strip_rows = max(1, _STRIP_BYTES // row_bytes // SIZE_DIVISOR) * SIZE_DIVISOR
        pixels: Any = None
        pending: dict[tuple[int, int], TileScores] = {}

        def weighted(row: Tile, column: Tile) -> StripReader:
            # The devices compute the next tile while the host sums this one.
            n = columns.index(column)
            for next_column in columns[n : n + 2]:
                key = row.start, next_column.start
                if key not in pending:
                    pending[key] = self._tile_scores(pixels[:, next_column.window])
            return pending.pop((row.start, column.start)).weighted(row.weight, column.weight)

        with progress.track("predicting tiles", len(rows) * len(columns)) as advance:
            blocks = blend(rows, columns, self.task.num_classes, weighted, strip_rows)
            for row in rows:
                pixels = image.read(row.start, row.stop)
                results: dict[str, np.ndarray] = {}
                num_finished, num_left = row.next - row.first, (row.next - row.first) * width
                while num_left:
                    column, strip, block = next(blocks)
                    for name, values in measure(block, False, names).items():
                        if name not in results:
                            shape = (num_finished, width, *values.shape[2:])
                            results[name] = np.empty(shape, values.dtype)
                        results[name][strip, column.finished] = values
                    num_left -= block.shape[0] * block.shape[1]
                    if strip.stop == num_finished:
                        advance()
                finished = pixels[row.first - row.start : row.next - row.start]
                yield self._prediction(finished, results, {})

    def _names(self, measures: Collection[str]) -> tuple[str, ...]:
        """Returns the measures to compute, in order."""
        if unknown := [name for name in measures if name not in MEASURES]:
            raise UserError(f"measures must be some of {', '.join(MEASURES)}; got {unknown[0]!r}")
        needed = {*measures, *(("confidence",) if self.unsure_below else ())}
        return tuple(name for name in MEASURES if name in needed)

    def _prediction(
        self, image: np.ndarray, results: Mapping[str, Any], features: Mapping[str, Any]
    ) -> Prediction:
        """Returns a prediction of the results of `measure`."""
        unsure_label, labels = None, results["labels"]
        if self.unsure_below:
            unsure_label = self.ignore_label
            is_unsure = results["confidence"] < np.float32(self.unsure_below)
            labels = np.where(is_unsure, np.uint8(unsure_label), labels)
        return Prediction(
            image=as_rgb(image),
            labels=labels,
            features=features,
            classes=self.classes,
            palette=self.palette,
            unsure_label=unsure_label,
            **{name: results.get(name) for name in MEASURES},
        )

    def _tile_scores(self, pixels: UInt8[np.ndarray, "h w c"]) -> TileScores:
        """Returns the scores of a tile: logits at the output stride if it passes once."""
        image, size = pixels.astype(np.float32), (pixels.shape[0], pixels.shape[1])
        if not self.protocol.is_unscaled_single_pass([size]):
            return TileScores(self._scores(image, with_features=False)[0], size)
        programs = SegmentationPrograms.for_task(self.task, self.trained.mesh)
        padded_shape = self.protocol.padded(size)
        logits = programs.padded_logits(self.trained.variables, _batch_of(image, padded_shape))
        align_corners = self.task.config.model.align_corners
        return TileScores(logits, padded_shape, are_logits=True, align_corners=align_corners)

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
            resized = resize_image(image, scaled, cv2.INTER_LINEAR)
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

    def _measure(
        self, scores: Float[Array, "1 h w k"], size: Size, names: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Returns the results of `measure` for an image of a size (h, w)."""
        scored_size = (scores.shape[1], scores.shape[2])
        are_logits = self.protocol.is_unscaled_single_pass([scored_size])
        if scored_size == size:
            return jax.tree.map(np.asarray, measure(scores[0], are_logits, names))
        height = -(-size[0] // _STRIP_ROWS) * _STRIP_ROWS
        rows, columns = (linear_taps(a, b) for a, b in zip(scored_size, size, strict=True))
        rows = rows.padded(height)
        strips = jax.tree.map(lambda x: x.reshape(-1, 1, _STRIP_ROWS, 2), rows)
        columns = jax.tree.map(lambda x: x[None], columns)
        results = measure_upsampled(scores, strips, columns, are_logits, names)
        return {
            name: np.asarray(x).reshape(height, *x.shape[2:])[: size[0]]
            for name, x in results.items()
        }


def _padding_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `eval` options that suit images of any size (docs/evaluation.md).

    Published protocols do not pad, which suits the image sizes of their datasets. Protocols with
    windows or a fixed size need no padding.
    """
    evaluation, is_fixed = config["eval"], any(config["data"]["fixed_size"])
    if evaluation["pad_to"] != PUBLISHED or evaluation["window"] == "slide" or is_fixed:
        return {}
    return {"pad_to": SIZE_DIVISOR, "pad": "edge"}


def _batch_of(image: np.ndarray, padded_shape: Size) -> dict[str, np.ndarray]:
    """Returns a batch of one image, in the top left of a padded shape."""
    height, width = image.shape[:2]
    padding = ((0, 0), (0, padded_shape[0] - height), (0, padded_shape[1] - width), (0, 0))
    return {"image": np.pad(image[None], padding), "size": np.array([[height, width]], np.int32)}


def _join(strips: Sequence[Prediction]) -> Prediction:
    """Joins the predictions of successive rows to that of the image."""
    names = ("image", "labels", *MEASURES)
    values = {name: [getattr(strip, name) for strip in strips] for name in names}
    joined: dict[str, Any] = {
        name: np.concatenate(x) for name, x in values.items() if x[0] is not None
    }
    return replace(strips[0], **joined)
