"""Builds prepared datasets from downloads."""

from collections.abc import Callable
from dataclasses import replace

from data_pipelines.builders.ade20k import ade20k
from data_pipelines.builders.builder import Builder, Example, Item
from data_pipelines.builders.cityscapes import cityscapes
from data_pipelines.builders.coco_keypoints import CocoKeypointsBuilder, coco_keypoints
from data_pipelines.builders.coco_stuff import coco_stuff
from data_pipelines.builders.coco_wholebody import coco_wholebody
from data_pipelines.builders.imagenet import imagenet
from data_pipelines.builders.lip import lip
from data_pipelines.builders.mapillary import mapillary
from data_pipelines.builders.mpii import mpii
from data_pipelines.builders.pascal_context import pascal_context
from data_pipelines.builders.pascal_voc import pascal_voc
from data_pipelines.builders.prepare import VERSION, prepare
from data_pipelines.config import DataConfig

BUILDERS: dict[str, Callable[..., Builder]] = {
    "cityscapes": cityscapes,
    "lip": lip,
    "pascal_context": pascal_context,
    "ade20k": ade20k,
    "pascal_voc": pascal_voc,
    "coco_stuff": coco_stuff,
    "mapillary": mapillary,
    "coco_keypoints": coco_keypoints,
    "coco_wholebody": coco_wholebody,
    "mpii": mpii,
    "imagenet": imagenet,
}
"""Builders by name of the dataset; each accepts the attributes of `Builder`."""


def make_builder(config: DataConfig) -> Builder:
    """Returns the builder of a configured dataset."""
    builder = replace(BUILDERS[config.name](), decode_options=config.decode_options)
    if isinstance(builder, CocoKeypointsBuilder):
        return replace(builder, keypoints=config.keypoints)
    return builder


__all__ = [
    "BUILDERS",
    "VERSION",
    "Builder",
    "Example",
    "Item",
    "make_builder",
    "prepare",
]
