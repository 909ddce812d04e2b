"""Warnings at the start of a run whose recipe is unlikely to give the published scores."""

from gsto_jax.config import Config, TrainConfig
from gsto_jax.ops.sizes import PUBLISHED, SIZE_DIVISOR, round_up
from gsto_jax.types import Size

IMAGENET_DATASETS = (
    *("cityscapes", "lip", "pascal_context", "ade20k", "pascal_voc", "coco_stuff"),
    *("mapillary", "coco_keypoints", "mpii", "coco_wholebody"),
)
"""Prepared datasets whose published scores start from ImageNet weights."""

MAX_BATCH_RATIO, MIN_STEPS_PER_EPOCH = 8, 20
"""Bounds of linear learning rate scaling (docs/large-batches.md)."""


def crop_warning(config: Config, crop: Size) -> str | None:
    """Returns a warning if the network's strides do not divide the training crop.

    Published recipes, which set `eval.pad_to=published`, keep their crops (LIP: 473x473).
    """
    stride = 8 if config.model.is_context_net else SIZE_DIVISOR
    larger = round_up(crop, stride)
    if config.task != "segmentation" or config.eval.pad_to == PUBLISHED or crop == larger:
        return None
    return (
        f"warning: config.data.crop={crop[0]}x{crop[1]} is not divisible by {stride}: feature maps "
        f"are misaligned, unlike in evaluation; use {larger[0]}x{larger[1]}"
    )


def random_weights_note(config: Config, dataset: str) -> str | None:
    """Returns a note if the published scores start from ImageNet weights and this run does not."""
    # `he` means training from scratch, except for ResNets, which have no other initializer.
    from_scratch = config.model.init == "he" and not config.model.is_context_net
    if dataset not in IMAGENET_DATASETS or config.init_from or from_scratch:
        return None
    return (
        "note: training starts from random weights; the published scores start from ImageNet "
        "weights: pass a weight file as --config.init_from (docs/weights.md)"
    )


def batch_size_warnings(train: TrainConfig, num_examples: int) -> list[str]:
    """Returns warnings about a batch that is large for the recipe or for the training set.

    Args:
      train: batch size of the run and of its recipe.
      num_examples: images or persons of the training set.
    """
    warnings = []
    ratio = train.batch_size / (train.recipe_batch_size or train.batch_size)
    if ratio > MAX_BATCH_RATIO:
        warnings.append(
            f"config.train.batch_size={train.batch_size} is {ratio:.3g} times the recipe's "
            f"{train.recipe_batch_size}: a learning rate scaled linearly may not reach its score "
            "(docs/large-batches.md)"
        )
    steps = num_examples // train.batch_size
    if train.recipe_batch_size and ratio > 1 and steps < MIN_STEPS_PER_EPOCH:
        warnings.append(
            f"an epoch has {steps} steps of config.train.batch_size={train.batch_size}: fewer than "
            f"{MIN_STEPS_PER_EPOCH} leave too few updates (docs/large-batches.md)"
        )
    return warnings
