"""Proposes crop, scales, batch size and length of a training from image sizes and memory."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files.images import decode_image, read_image_header
from gsto_jax.image_files import MAX_CHANNELS, DecodeOptions

_MAX_SIZES = 200
"""Number of image headers that are read."""
_CROP_MULTIPLE = 32
_MAX_CROP, _MAX_CROP_CPU = 512, 256
_CROP_FRACTION = 0.7
"""Side of a crop as a fraction of the image's side."""
_BYTES_PER_PIXEL = 8192
"""Memory of a train step of GSTO-HRNet-W18-Small-v2 in float32, per pixel of a batch."""
_MEMORY_FRACTION = 0.5
_MAX_BATCH, _MAX_BATCH_CPU = 16, 8
_EPOCHS = 100
_MIN_STEPS, _MAX_STEPS, _MAX_STEPS_CPU = 500, 20_000, 1_000
_RATE_PER_IMAGE, _MAX_RATE = 0.0025, 0.02
"""Learning rate per image of a batch, and the maximum learning rate."""


@dataclass(frozen=True)
class SizeProposal:
    """Options that depend on sizes of images and of memory.

    Attributes:
      height: median height of the images in pixels.
      width: median width.
      is_uniform: whether all images have the same size.
      crop: (h, w) of a training crop.
      scales: minimum training scale, and number of scales at steps of 0.1.
      batch_size: images in a batch.
      eval_batch_size: images in an evaluation batch.
      steps: length of the run.
      learning_rate: base learning rate.
      channels: number of channels of the images; 3: RGB.
      device: the device that they are meant for.
    """

    height: int
    width: int
    is_uniform: bool
    crop: tuple[int, int]
    scales: tuple[float, int]
    batch_size: int
    eval_batch_size: int
    steps: int
    learning_rate: float
    channels: int
    device: str


def propose_sizes(
    images: Sequence[Path], num_train: int, memory: int, on_cpu: bool
) -> SizeProposal:
    """Proposes sizes for a training.

    Args:
      images: the images, of which up to 200 headers are read.
      num_train: number of training images.
      memory: bytes that the training may use.
      on_cpu: whether it runs without an accelerator, on which small crops take seconds a step.

    Raises:
      DataError: no image can be read.
    """
    sizes = _read_sizes(images)
    height, width = (round(statistics.median(size[axis] for size in sizes)) for axis in (0, 1))
    limit = _MAX_CROP_CPU if on_cpu else _MAX_CROP
    crop = _crop_side(height, limit), _crop_side(width, limit)
    fitting = int(memory * _MEMORY_FRACTION / (_BYTES_PER_PIXEL * crop[0] * crop[1]))
    batch_size = max(1, min(_MAX_BATCH_CPU if on_cpu else _MAX_BATCH, fitting, num_train))
    if batch_size > 2:
        batch_size -= batch_size % 2
    max_steps = _MAX_STEPS_CPU if on_cpu else _MAX_STEPS
    steps = min(max(_EPOCHS * num_train / batch_size, _MIN_STEPS), max_steps)
    is_large = height * width > 2**21
    return SizeProposal(
        height=height,
        width=width,
        is_uniform=len(set(sizes)) == 1,
        crop=crop,
        scales=(0.5, 16) if min(height / crop[0], width / crop[1]) >= 1.25 else (0.75, 8),
        batch_size=batch_size,
        eval_batch_size=1 if is_large else min(4, batch_size),
        steps=round(steps / 100) * 100,
        channels=_count_channels(images[0]),
        device=f"{'a CPU' if on_cpu else 'a device'} with {memory / 2**30:.0f} GiB of memory",
        learning_rate=min(round(_RATE_PER_IMAGE * batch_size, 4), _MAX_RATE),
    )


def _read_sizes(images: Sequence[Path]) -> list[tuple[int, int]]:
    sizes, message = [], ""
    for path in images[:: -(-len(images) // _MAX_SIZES) or 1]:
        try:
            sizes.append(read_image_header(path, str(path)).oriented_size(DecodeOptions()))
        except DataError as error:
            message = str(error)
    if not sizes:
        raise DataError(message)
    return sizes


def _count_channels(path: Path) -> int:
    """Returns 3 for an image that can be read as RGB or not at all, else its number of channels."""
    try:
        data = path.read_bytes()
    except OSError:
        return 3
    for channels in (3, *range(1, MAX_CHANNELS + 1)):
        try:
            decode_image(data, str(path), DecodeOptions(channels=channels))
        except DataError:
            continue
        return channels
    return 3


def _crop_side(side: int, limit: int) -> int:
    """Returns a multiple of 32 below the side of the images and up to a limit, or 32."""
    crop = min(round(_CROP_FRACTION * side), limit)
    return max(_CROP_MULTIPLE, crop // _CROP_MULTIPLE * _CROP_MULTIPLE)
