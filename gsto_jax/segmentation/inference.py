"""Scores of images under a test protocol, computed on the device.

Images lie in the top left of a padded shape, so that images of different sizes share programs. The
network compiles once per shape of the windows; the small programs that extract windows and add up
scores compile once per window shape and padded shape.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from gsto_jax.devices.mesh import put_batch
from gsto_jax.evaluation.loop import CompiledPrograms
from gsto_jax.ops.flip import flip, flip_permutation
from gsto_jax.ops.materialize import materialize
from gsto_jax.ops.resample import resample
from gsto_jax.ops.resize import resize
from gsto_jax.segmentation.metrics import best_class, pixel_counts
from gsto_jax.segmentation.protocol import EvalProtocol, ScalePlan
from gsto_jax.segmentation.task import (
    SegmentationTask,
    eval_step,
    feature_step,
    logits,
    padded_logits,
    score_step,
)
from gsto_jax.training.task import normalize
from gsto_jax.types import Size


def extract_windows(
    protocol: EvalProtocol,
    padding: Float[Array, " c"],
    images: Float[Array, "b H W c"],
    view: Mapping[str, Any],
) -> list[Float[Array, "b h w c"]]:
    """Resamples normalized images into one window each, and into its flip if the protocol flips.

    `view` has the `View.arrays` of the images, with a leading axis b; `padding` is the normalized
    color outside the images.
    """
    rows, columns = view["rows"], view["columns"]
    coverage = rows.weight.sum(-1)[:, :, None] * columns.weight.sum(-1)[:, None]
    window = resample(images, rows, columns) + (1 - coverage)[..., None] * padding[None, None, None]
    if not protocol.flip:
        return [window]
    return [window, _flip_inside(window, view) if "flip_index" in view else flip(window)]


def _flip_inside(window: Array, view: Mapping[str, Any]) -> Array:
    """Flips windows `b h w c` by `View.flip_index`, which keeps the padding on the right."""
    return jax.vmap(lambda x, columns: jnp.take(x, columns, 1))(window, view["flip_index"])


def window_scores(
    protocol: EvalProtocol,
    align_corners: bool,
    logits: Sequence[Float[Array, "b h w k"]],
    view: Mapping[str, Any],
) -> Float[Array, "b H W k"]:
    """Computes the scores that one window adds to each image, at least float32.

    `logits` are the logits of the `extract_windows` results of the same view, at output stride.
    """
    size = [view[axis].index.shape[1] for axis in ("rows", "columns")]
    upsample = partial(resize, size=size, align_corners=align_corners, differentiable=False)
    if len(logits) == 1:
        (mean,) = map(upsample, logits)
    else:
        unflipped, flipped = logits
        flipped = flipped[..., flip_permutation(protocol.flip_pairs, unflipped.shape[-1])]
        if "flip_index" in view:
            # Logits of a padded flipped image lie on another grid; they match at full size.
            flipped = _flip_inside(upsample(flipped), view)
            mean = (upsample(unflipped) + flipped) / 2
        else:
            # Averaging first gives the same result at half the cost.
            mean = upsample((unflipped + flip(flipped)) / 2)
    mean = materialize(mean)
    scores = jnp.exp(mean) if protocol.score == "exp" else jax.nn.softmax(mean)
    taps = view["score_rows"], view["score_columns"]
    # With one tap each score is read once, and fuses into the resampling.
    has_one_tap = taps[0].index.shape[-1] == 1
    return resample(scores if has_one_tap else materialize(scores), *taps)


def batch_views(
    protocol: EvalProtocol,
    sizes: Sequence[Size],
    padded_shape: Size,
    bucket_sizes: Collection[Size],
) -> list[dict[str, Any]]:
    """Returns the views of images on a padded shape: `View.arrays` with a leading axis b.

    `bucket_sizes` are the sizes of all images that share programs with these.
    """
    plans = _scale_plans(protocol, frozenset(bucket_sizes))
    views = [_image_views(protocol, size, plans, padded_shape) for size in sizes]
    return [
        jax.tree.map(lambda *leaves: np.stack(leaves), *same) for same in zip(*views, strict=True)
    ]


@lru_cache(maxsize=64)
def _scale_plans(protocol: EvalProtocol, sizes: frozenset[Size]) -> tuple[ScalePlan, ...]:
    return tuple(protocol.scale_plans(sizes))


@lru_cache(maxsize=16)
def _image_views(
    protocol: EvalProtocol, size: Size, plans: tuple[ScalePlan, ...], padded_shape: Size
) -> list[dict[str, Any]]:
    return [view.arrays(padded_shape) for view in protocol.views(size, plans)]


def score_batch(
    task: SegmentationTask,
    protocol: EvalProtocol,
    mesh: Mesh,
    variables: Any,
    batch: Mapping[str, np.ndarray],
    bucket_sizes: Collection[Size],
) -> Float[Array, "b H W k"]:
    """Scores every class at every pixel under a protocol, on the devices; 0 in the padding.

    The batch has "image" `b H W c` uint8 and "size" `b 2` of this process. `bucket_sizes` are as in
    `batch_views`.
    """
    programs = SegmentationPrograms.for_task(task, mesh)
    extract, first, add = programs.windows(protocol)
    images = put_batch({"image": batch["image"]}, mesh)["image"]
    sizes = [(int(height), int(width)) for height, width in batch["size"]]
    scores: Any = None
    for host_view in batch_views(protocol, sizes, batch["image"].shape[1:3], bucket_sizes):
        view = put_batch(host_view, mesh)
        outputs = [programs.logits(variables, window) for window in extract(images, view)]
        scores = first(outputs, view) if scores is None else add(scores, outputs, view)
    return scores


class SegmentationPrograms(CompiledPrograms):
    """Compiled programs of a segmentation task; see `CompiledPrograms`."""

    def __init__(self, task: SegmentationTask, mesh: Mesh) -> None:
        super().__init__(task, mesh)
        self._windows: dict[EvalProtocol, tuple[Any, Any, Any]] = {}

    @cached_property
    def eval_step(self) -> Any:
        """`gsto_jax.segmentation.task.eval_step`."""
        outputs = (self.replicated, self.batch_sharded, self.batch_sharded)
        return self.compile_network(eval_step, "the eval step", outputs)

    @cached_property
    def score_step(self) -> Any:
        """`gsto_jax.segmentation.task.score_step`."""
        return self.compile_network(score_step, "the network")

    @cached_property
    def feature_step(self) -> Any:
        """`gsto_jax.segmentation.task.feature_step`."""
        return self.compile_network(feature_step, "the network")

    @cached_property
    def padded_logits(self) -> Any:
        """`gsto_jax.segmentation.task.padded_logits`."""
        return self.compile_network(padded_logits, "the network")

    @cached_property
    def logits(self) -> Any:
        """`gsto_jax.segmentation.task.logits`; compiles once per shape of the windows."""
        return self.compile_network(logits, "the network")

    @cached_property
    def count(self) -> Any:
        """Computes `pixel_counts` over all processes, and predictions, from scores `b H W k`."""
        num_classes, ignore_label = self.task.num_classes, self.task.ignore_label

        def count(scores: Array, batch: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
            predictions = best_class(scores)
            return pixel_counts(predictions, batch, num_classes, ignore_label), predictions

        return self.compile(count, out_shardings=(self.replicated, self.batch_sharded))

    def windows(self, protocol: EvalProtocol) -> tuple[Any, Any, Any]:
        """Returns programs that extract windows, compute their scores, and add to a sum."""
        if protocol in self._windows:
            return self._windows[protocol]
        task, align_corners = self.task, self.task.config.model.align_corners

        def extract(images: Array, view: Mapping[str, Any]) -> list[Array]:
            color = jnp.asarray(protocol.pad or task.mean, jnp.float32)  # unused if pad is None
            padding = normalize(task, 255 * color[None, None, None])
            return extract_windows(protocol, padding[0, 0, 0], normalize(task, images), view)

        def first(logits: Sequence[Array], view: Mapping[str, Any]) -> Array:
            return window_scores(protocol, align_corners, logits, view)

        def add(scores: Array, logits: Sequence[Array], view: Mapping[str, Any]) -> Array:
            return scores + first(logits, view)

        programs = self.compile(extract), self.compile(first), self.compile(add, donate_argnums=0)
        return self._windows.setdefault(protocol, programs)
