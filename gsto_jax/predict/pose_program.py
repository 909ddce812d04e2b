"""The exported program of a pose network: joints of the persons in boxes of one image.

It computes what `gsto_jax.predict.pose.PosePredictor` does: it crops each box to the size of the
network's input, predicts heatmaps, also of the flipped crop with `eval.flip`, and decodes them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt8

from gsto_jax.ops.flip import flip
from gsto_jax.pose.task import PoseTask, heatmap_step, joint_step
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.program_source import ArraySpec, ProgramSource
from gsto_jax.types import Size


def pose_source(predictor: PosePredictor) -> ProgramSource:
    """Returns the function to export."""
    task, variables = predictor.task, jax.device_get(predictor.trained.variables)
    data = predictor.config["data"]
    size, padding = tuple(data["crop"]), data["keypoints"]["padding"]
    return ProgramSource(
        lambda image, boxes: predict_persons(task, variables, size, padding, image, boxes),
        inputs={
            "image": ArraySpec(("h", "w", 3), "uint8"),
            "boxes": ArraySpec(("n", 4), "float32"),
        },
        outputs={
            "joints": ArraySpec(("n", task.num_classes, 3), "float32"),
            "scores": ArraySpec(("n",), "float32"),
        },
    )


def predict_persons(
    task: PoseTask,
    variables: Any,
    size: Size,
    padding: float,
    image: UInt8[Array, "h w 3"],
    boxes: Float[Array, "n 4"],
) -> dict[str, Array]:
    """Predicts the joints of persons.

    Args:
      task: trained task.
      variables: variables of the network.
      size: (h, w) of the network's input.
      padding: scale factor of the boxes, as of `gsto_jax.image_files.box_to_frame`.
      image: RGB pixels; h and w may be symbols.
      boxes: x, y, width and height in pixels; n may be a symbol.

    Returns:
      "joints" `n j 3` float32, x and y in pixels of the image and score; and "scores" `n` float32,
      the mean score of each person's joints above `pose.visibility_threshold`.
    """
    center, frame = _frames(boxes, size, padding)
    crops = _crop(image, center, frame, size, task.udp)
    heatmaps, _ = heatmap_step(task, variables, crops)
    flipped = heatmap_step(task, variables, flip(crops))[0] if task.config.eval.flip else None
    joints, _ = joint_step(task, heatmaps, flipped, {"center": center, "frame": frame})
    joints = joints.astype(jnp.float32)
    visible = (joints[..., 2] > task.config.pose.visibility_threshold).astype(jnp.float32)
    total = (joints[..., 2] * visible).sum(-1)
    return {"joints": joints, "scores": total / jnp.maximum(visible.sum(-1), 1)}


def _frames(boxes: Float[Array, "n 4"], size: Size, padding: float) -> tuple[Array, Array]:
    """Computes centers and sizes of frames as `gsto_jax.image_files.box_to_frame`."""
    aspect = size[1] / size[0]
    sides = jnp.maximum(boxes[:, 2:], 1)
    width = jnp.maximum(sides[:, 0], aspect * sides[:, 1])
    return boxes[:, :2] + boxes[:, 2:] / 2, padding * jnp.stack([width, width / aspect], -1)


def _crop(
    image: UInt8[Array, "h w 3"],
    center: Float[Array, "n 2"],
    frame: Float[Array, "n 2"],
    size: Size,
    udp: bool,
) -> Float[Array, "n h2 w2 3"]:
    """Crops frames bilinearly, with zeros outside the image, as `image_files.crop_person`."""
    pixels = image.reshape(-1, 3)
    x_scale = frame[:, :1] / (size[1] - udp)
    y_scale = frame[:, 1:] / (size[0] - 1) if udp else x_scale
    columns = _taps(center[:, :1], x_scale, size[1], image.shape[1], udp)
    rows = _taps(center[:, 1:], y_scale, size[0], image.shape[0], udp)
    image_width = jnp.asarray(image.shape[1], jnp.int32)
    crops: Any = 0.0
    for row, row_weight in rows:
        for column, column_weight in columns:
            index = row[:, :, None] * image_width + column[:, None]
            weight = row_weight[:, :, None] * column_weight[:, None]
            values = jnp.take(pixels, index, 0, mode="clip").astype(jnp.float32)
            crops = crops + values * weight[..., None]
    return jnp.round(crops)  # OpenCV's crops are uint8


def _taps(
    center: Float[Array, "n 1"], scale: Float[Array, "n 1"], count: int, length: Any, udp: bool
) -> list[tuple[Array, Array]]:
    """Returns index and weight `n count` of the two nearest pixels; weights are 0 outside.

    Args:
      center: coordinate of the frame's center.
      scale: length in image pixels of a pixel of the crop.
      count: length of the crop.
      length: length of the image.
      udp: whether the frame ends at the centers of the outermost pixels.
    """
    last = jnp.asarray(length, jnp.int32) - 1
    offset = jnp.arange(count, dtype=jnp.float32) - (count - udp) / 2
    position = offset[None] * scale + center
    lower = jnp.floor(position)
    upper_weight = position - lower
    taps = []
    for step, weight in ((0, 1 - upper_weight), (1, upper_weight)):
        index = lower.astype(jnp.int32) + step
        is_inside = (index >= 0) & (index <= last)
        taps.append((jnp.clip(index, 0, last), jnp.where(is_inside, weight, 0)))
    return taps
