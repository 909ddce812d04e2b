"""Scores of images under a test protocol, all of it on the device.

Images lie in the top left corner of a padded shape, so that images of different sizes share
programs: the network's compiles once for each shape of windows, and the small programs that lay
windows over a padded shape once for each pair of the two.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.devices.mesh import put_batch
from gsto_jax.evaluation.loop import Programs
from gsto_jax.ops.flip import flip, flip_permutation
from gsto_jax.ops.materialize import materialize
from gsto_jax.ops.resample import resample
from gsto_jax.ops.resize import resize
from gsto_jax.segmentation.metrics import best_class, pixel_counts
from gsto_jax.segmentation.protocol import EvalProtocol, ScalePlan
from gsto_jax.segmentation.task import SegmentationTask, eval_step, logits, score_step
from gsto_jax.training.task import normalize
from gsto_jax.types import Size


def extract_windows(
    protocol: EvalProtocol, outside: Array, images: Array, taps: Mapping[str, Any]
) -> list[Array]:
    """What one window shows of each image.

    Args:
      protocol: of the test.
      outside: `3`, normalized: what a window shows beside the image.
      images: `b H W 3`, normalized.
      taps: `View.arrays` of each image, with a leading axis b.

    Returns:
      Windows `b h w 3`: one, and its mirror image where the protocol flips.
    """
    rows, columns = taps["rows"], taps["columns"]
    inside = rows.weight.sum(-1)[:, :, None] * columns.weight.sum(-1)[:, None]
    beside = (1 - inside)[..., None] * outside[None, None, None]
    window = resample(images, rows, columns) + beside
    if not protocol.flip:
        return [window]
    return [window, _mirrored(window, taps) if "mirror" in taps else flip(window)]


def _mirrored(window: Array, taps: Mapping[str, Any]) -> Array:
    """Mirrors the part of windows `b h w c` that lies inside the images; see `View.mirror`."""
    return jax.vmap(lambda x, columns: jnp.take(x, columns, 1))(window, taps["mirror"])


def window_scores(
    protocol: EvalProtocol,
    align_corners: bool,
    logits: Sequence[Array],
    taps: Mapping[str, Any],
) -> Array:
    """What one window adds to the scores of each image.

    Args:
      protocol: of the test.
      align_corners: of the upsampling of the logits.
      logits: `b h' w' k` of each of `extract_windows`.
      taps: see there.

    Returns:
      `b H W k`, at least float32.
    """
    found, *mirrored = logits
    size = [taps[axis].index.shape[1] for axis in ("rows", "columns")]
    upsampled = partial(resize, size=size, align_corners=align_corners, gradient=False)
    if not mirrored:
        found = materialize(upsampled(found))
    else:
        other = mirrored[0][..., flip_permutation(protocol.flip_pairs, found.shape[-1])]
        if "mirror" in taps:
            # Logits of a padded mirror image lie on another grid: they meet at full size.
            other = _mirrored(upsampled(other), taps)
            found = materialize((upsampled(found) + other) / 2)
        else:
            # Before they are upsampled, which comes to the same and costs half.
            found = materialize(upsampled((found + flip(other)) / 2))
    scores = jnp.exp(found) if protocol.score == "exp" else jax.nn.softmax(found)
    back = taps["back_rows"], taps["back_columns"]
    # Where each is read once, it need not lie in memory first.
    once = back[0].index.shape[-1] == 1
    return resample(scores if once else materialize(scores), *back)


def batch_views(
    protocol: EvalProtocol, sizes: Sequence[Size], padded_shape: Size, together: Collection[Size]
) -> list[dict[str, Any]]:
    """The views of a batch of images, one of each image at a time.

    Args:
      protocol: of the test.
      sizes: (h, w) of the images.
      padded_shape: (h, w) of the arrays that hold the images.
      together: the sizes of all images that lie on such a padded shape.

    Returns:
      For each view its taps, `b n t`; see `window_scores`.
    """
    scale_plans = _rounds(protocol, frozenset(together))
    views = [_image_views(protocol, size, scale_plans, padded_shape) for size in sizes]
    return [
        jax.tree.map(lambda *leaves: np.stack(leaves), *same) for same in zip(*views, strict=True)
    ]


@lru_cache(maxsize=64)
def _rounds(protocol: EvalProtocol, together: frozenset[Size]) -> tuple[ScalePlan, ...]:
    return tuple(protocol.scale_plans(together))


@lru_cache(maxsize=16)
def _image_views(
    protocol: EvalProtocol, size: Size, scale_plans: tuple[ScalePlan, ...], padded_shape: Size
) -> list[dict[str, Any]]:
    return [view.arrays(padded_shape) for view in protocol.views(size, scale_plans)]


def score_batch(
    task: SegmentationTask,
    protocol: EvalProtocol,
    mesh: Mesh,
    variables: Any,
    batch: Mapping[str, np.ndarray],
    together: Collection[Size],
) -> Array:
    """Scores of every class at every pixel.

    Args:
      task: what was trained.
      protocol: of the test.
      mesh: the devices.
      variables: of the network.
      batch: this process' part: "image" `b H W 3` uint8 and "size" `b 2`.
      together: see `batch_views`.

    Returns:
      `b H W k` on the devices, 0 beside the images; larger is likelier.
    """
    programs = SegmentationPrograms.of(task, mesh)
    show, begin, add = programs.windows(protocol)
    inputs = put_batch({"image": batch["image"]}, mesh)["image"]
    padded_shape = batch["image"].shape[1:3]
    sizes = [(int(height), int(width)) for height, width in batch["size"]]
    scores: Any = None
    for view in batch_views(protocol, sizes, padded_shape, together):
        taps = put_batch(view, mesh)
        found = [programs.logits(variables, window) for window in show(inputs, taps)]
        scores = begin(found, taps) if scores is None else add(scores, found, taps)
    return scores


class SegmentationPrograms(Programs):
    """Compiled programs of a segmentation task; see `Programs`."""

    def __init__(self, task: SegmentationTask, mesh: Mesh) -> None:
        super().__init__(task, mesh)
        self._windows: dict[EvalProtocol, tuple[Any, Any, Any]] = {}

    @cached_property
    def eval_step(self) -> Any:
        """`gsto_jax.segmentation.task.eval_step`."""
        outputs = (self.whole, self.split, self.split)
        return self.compile_network(eval_step, "the eval step", outputs)

    @cached_property
    def score_step(self) -> Any:
        """`gsto_jax.segmentation.task.score_step`."""
        return self.compile_network(score_step, "the network")

    @cached_property
    def logits(self) -> Any:
        """From windows to logits; it compiles once for each shape of them.

        By itself, since it is what takes long to compile; the others compile for each padded shape.
        """
        return self.compile_network(logits, "the network")

    @cached_property
    def count(self) -> Any:
        """From scores `b H W k` and a batch to counts over all processes and predictions `b H W`.

        The counts are those of `gsto_jax.segmentation.metrics.pixel_counts`.
        """
        settings = (self.task.num_classes, self.task.ignore_label)

        def count(scores: Array, batch: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
            predictions = best_class(scores)
            return pixel_counts(predictions, batch, *settings), predictions

        return self.compile(count, out_shardings=(self.whole, self.split))

    def windows(self, protocol: EvalProtocol) -> tuple[Any, Any, Any]:
        """Returns programs for `extract_windows` and for the sum of `window_scores`."""
        if protocol in self._windows:
            return self._windows[protocol]
        task, corners = self.task, self.task.config.model.align_corners

        def show(images: Array, taps: Mapping[str, Any]) -> list[Array]:
            pad = protocol.pad or task.mean  # None: windows show nothing of it
            outside = normalize(task, 255 * jnp.asarray(pad, jnp.float32)[None, None, None])
            return extract_windows(protocol, outside[0, 0, 0], normalize(task, images), taps)

        def begin(logits: Sequence[Array], taps: Mapping[str, Any]) -> Array:
            return window_scores(protocol, corners, logits, taps)

        def add(scores: Array, logits: Sequence[Array], taps: Mapping[str, Any]) -> Array:
            return scores + begin(logits, taps)

        programs = self.compile(show), self.compile(begin), self.compile(add, donate_argnums=0)
        return self._windows.setdefault(protocol, programs)
