"""Scores of pictures under a test protocol, all of it on the device.

Pictures lie in the top left corner of a canvas, so that those of different sizes share a program:
there is one for each pair of a canvas and a shape of windows.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.layers.resize import resize
from gsto_jax.metrics import pixel_counts
from gsto_jax.parallel import compiler_options, put_batch, replicated, split_batch
from gsto_jax.protocol import Protocol, Size
from gsto_jax.task import Task, logits, normalize

Apply = Callable[[Array], Array]
"""From normalised windows `b h w 3` to logits `b h' w' k`."""


def resample(x: Array, rows: Mapping[str, Array], columns: Mapping[str, Array]) -> Array:
    """Resamples `b h w c` along both axes by taps `b n 2` and `b m 2` (`gsto_jax.protocol.Taps`).

    Returns:
      `b n m c` in the dtype of `x`.
    """

    def along(x: Array, taps: Mapping[str, Array], axis: int) -> Array:
        shape = [1, 1, 1]
        shape[axis] = -1

        def tap(t: int) -> Array:
            weight = taps["weight"][:, t].reshape(shape).astype(x.dtype)
            # Not a product alone: what has no weight may be infinite.
            return jnp.where(weight > 0, jnp.take(x, taps["index"][:, t], axis) * weight, 0)

        return tap(0) + tap(1)

    def both(x: Array, rows: Mapping[str, Array], columns: Mapping[str, Array]) -> Array:
        return along(along(x, rows, 0), columns, 1)

    return jax.vmap(both)(x, rows, columns)


def view_scores(
    apply: Apply,
    protocol: Protocol,
    outside: Array,
    align_corners: bool,
    images: Array,
    taps: Mapping[str, Any],
) -> Array:
    """What one window adds to the scores of each picture.

    Args:
      apply: the network.
      protocol: of the test.
      outside: `3`, normalised: what a window shows beside the picture.
      align_corners: of the upsampling of the logits.
      images: `b H W 3`, normalised.
      taps: `View.arrays` of each picture, with a leading axis b.

    Returns:
      `b H W k`, at least float32.
    """
    rows, columns = taps["rows"], taps["columns"]
    inside = rows["weight"].sum(-1)[:, :, None] * columns["weight"].sum(-1)[:, None]
    beside = (1 - inside)[..., None] * outside[None, None, None]
    window = resample(images, rows, columns) + beside

    def upsampled(x: Array) -> Array:
        return resize(apply(x), x.shape[1:3], "bilinear", align_corners)

    if protocol.flip:
        # One after the other by one piece of code: half the memory, and half to compile.
        plain, mirrored = jax.lax.map(upsampled, jnp.stack([window, window[:, :, ::-1]]))
        order = _mirrored_classes(protocol, plain.shape[-1])
        found = (plain + mirrored[:, :, ::-1][..., order]) / 2
    else:
        found = upsampled(window)
    scores = jnp.exp(found) if protocol.score == "exp" else jax.nn.softmax(found)
    return resample(scores, taps["back_rows"], taps["back_columns"])


def _mirrored_classes(protocol: Protocol, num_classes: int) -> np.ndarray:
    order = np.arange(num_classes)
    for left, right in protocol.flip_pairs:
        order[left], order[right] = right, left
    return order


def stacked_views(
    protocol: Protocol, sizes: Sequence[Size], canvas: Size, together: Collection[Size]
) -> list[dict[str, Any]]:
    """The views of a batch of pictures, one of each picture at a time.

    Args:
      protocol: of the test.
      sizes: (h, w) of the pictures.
      canvas: what they lie on.
      together: the sizes of all pictures that lie on such a canvas.

    Returns:
      For each view its taps, `b n 2`; see `view_scores`.
    """
    rounds = protocol.rounds(together)
    views = [protocol.views(size, rounds) for size in sizes]
    return [
        jax.tree.map(lambda *leaves: np.stack(leaves), *[view.arrays(canvas) for view in same])
        for same in zip(*views, strict=True)
    ]


def score_batch(
    task: Task,
    protocol: Protocol,
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
      together: see `stacked_views`.

    Returns:
      `b H W k` on the devices, 0 beside the pictures; larger is likelier.
    """
    add, begin = _programs(task, protocol, mesh)
    inputs = put_batch({name: batch[name] for name in ("image", "size")}, mesh)
    canvas = batch["image"].shape[1:3]
    sizes = [(int(height), int(width)) for height, width in batch["size"]]
    scores = begin(inputs)
    for taps in stacked_views(protocol, sizes, canvas, together):
        scores = add(variables, inputs, put_batch(taps, mesh), scores)
    return scores


@lru_cache(maxsize=4)
def _programs(task: Task, protocol: Protocol, mesh: Mesh) -> tuple[Any, Any]:
    """Kept, since a run evaluates many times."""
    whole, split = replicated(mesh), split_batch(mesh)
    add = jax.jit(
        partial(_add_view, task, protocol),
        in_shardings=(whole, split, split, split),
        out_shardings=split,
        donate_argnums=3,
        compiler_options=compiler_options(mesh),
    )

    def begin(batch: Mapping[str, Array]) -> Array:
        dtype = jnp.promote_types(task.config.model.compute_dtype, jnp.float32)
        return jnp.zeros((*batch["image"].shape[:3], task.num_classes), dtype)

    return add, jax.jit(begin, in_shardings=(split,), out_shardings=split)


def _add_view(
    task: Task,
    protocol: Protocol,
    variables: Any,
    batch: Mapping[str, Array],
    taps: Mapping[str, Any],
    scores: Array,
) -> Array:
    outside = normalize(task, 255 * jnp.asarray(protocol.pad, jnp.float32)[None, None, None])
    apply = partial(logits, task, variables)
    corners = task.config.model.align_corners
    images = normalize(task, batch["image"])
    return scores + view_scores(apply, protocol, outside[0, 0, 0], corners, images, taps)


@lru_cache(maxsize=4)
def counting(task: Task, mesh: Mesh) -> Any:
    """The program that turns scores `b H W k` and a batch into counts and predictions.

    Those are the counts of `gsto_jax.metrics.pixel_counts` over all processes, and `b H W` uint8.
    """
    whole, split = replicated(mesh), split_batch(mesh)

    def count(scores: Array, batch: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        predictions = scores.argmax(-1).astype(jnp.uint8)
        return (
            pixel_counts(predictions, batch, task.num_classes, task.ignore_label),
            predictions,
        )

    return jax.jit(count, in_shardings=(split, split), out_shardings=(whole, split))
