"""Input pipelines: images and labels as NumPy batches, without JAX.

Names are imported on first use: grain, which the pipelines need, takes seconds, and imports JAX
where it is installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_pipelines.class_tables.ade20k import ADE20K
    from data_pipelines.class_tables.coco_stuff import COCO_STUFF
    from data_pipelines.class_tables.mapillary import MAPILLARY
    from data_pipelines.config import DataConfig
    from data_pipelines.errors import DataError
    from data_pipelines.files.tiles import Tiles, encode_tiles
    from data_pipelines.keypoint_options import Keypoints
    from data_pipelines.keypoints import COCO_KEYPOINTS, COCO_WHOLEBODY, MPII, KeypointTable
    from data_pipelines.labels import (
        CAMVID,
        CITYSCAPES,
        IGNORE_LABEL,
        LIP,
        PASCAL_CONTEXT_59,
        PASCAL_CONTEXT_60,
        PASCAL_VOC,
        SCENES,
        ClassTable,
        distinct_colors,
    )
    from data_pipelines.pipeline import (
        EvalBatches,
        TrainBatches,
        make_source,
        train_batch_bytes,
        train_batches,
    )
    from data_pipelines.sources.audit import audit_labels
    from data_pipelines.sources.channel_statistics import ChannelStatistics, channel_statistics
    from data_pipelines.sources.color_map import format_value
    from data_pipelines.sources.folder import FolderSource
    from data_pipelines.sources.label_checks import (
        check_split_labels,
        describe_untrained_classes,
        report_labels,
    )
    from data_pipelines.sources.persons import PersonSource
    from data_pipelines.sources.prepared import PreparedSource
    from data_pipelines.sources.source import Source
    from data_pipelines.sources.stats import Issue, LabelStats, balanced_weights, group_issues
    from data_pipelines.synthetic.source import SyntheticSource
    from data_pipelines.throughput import (
        StageSeconds,
        Throughput,
        evaluation_throughput,
        measure_stages,
        train_throughput,
    )
    from data_pipelines.transforms.pose import PersonCrop
    from data_pipelines.transforms.segmentation import RandomScaleCropFlip, ResizeFlipCrop
    from data_pipelines.workers import auto_workers, cpu_affinity, usable_cpus

__all__ = [
    "ADE20K",
    "CAMVID",
    "CITYSCAPES",
    "COCO_KEYPOINTS",
    "COCO_STUFF",
    "COCO_WHOLEBODY",
    "IGNORE_LABEL",
    "LIP",
    "MAPILLARY",
    "MPII",
    "PASCAL_CONTEXT_59",
    "PASCAL_CONTEXT_60",
    "PASCAL_VOC",
    "SCENES",
    "ChannelStatistics",
    "ClassTable",
    "DataConfig",
    "DataError",
    "EvalBatches",
    "FolderSource",
    "Issue",
    "KeypointTable",
    "Keypoints",
    "LabelStats",
    "PersonCrop",
    "PersonSource",
    "PreparedSource",
    "RandomScaleCropFlip",
    "ResizeFlipCrop",
    "Source",
    "StageSeconds",
    "SyntheticSource",
    "Throughput",
    "Tiles",
    "TrainBatches",
    "audit_labels",
    "auto_workers",
    "balanced_weights",
    "channel_statistics",
    "check_split_labels",
    "cpu_affinity",
    "describe_untrained_classes",
    "distinct_colors",
    "encode_tiles",
    "evaluation_throughput",
    "format_value",
    "group_issues",
    "make_source",
    "measure_stages",
    "report_labels",
    "train_batch_bytes",
    "train_batches",
    "train_throughput",
    "usable_cpus",
]

_MODULES = {
    "class_tables.ade20k": "ADE20K",
    "class_tables.coco_stuff": "COCO_STUFF",
    "class_tables.mapillary": "MAPILLARY",
    "config": "DataConfig",
    "errors": "DataError",
    "files.tiles": "Tiles encode_tiles",
    "keypoint_options": "Keypoints",
    "keypoints": "COCO_KEYPOINTS COCO_WHOLEBODY MPII KeypointTable",
    "labels": "CAMVID CITYSCAPES IGNORE_LABEL LIP PASCAL_CONTEXT_59"
    " PASCAL_CONTEXT_60 PASCAL_VOC SCENES ClassTable distinct_colors",
    "pipeline": "EvalBatches TrainBatches make_source train_batch_bytes train_batches",
    "sources.audit": "audit_labels",
    "sources.channel_statistics": "ChannelStatistics channel_statistics",
    "sources.color_map": "format_value",
    "sources.folder": "FolderSource",
    "sources.label_checks": "check_split_labels describe_untrained_classes report_labels",
    "sources.persons": "PersonSource",
    "sources.prepared": "PreparedSource",
    "sources.source": "Source",
    "sources.stats": "Issue LabelStats balanced_weights group_issues",
    "synthetic.source": "SyntheticSource",
    "throughput": "StageSeconds Throughput evaluation_throughput measure_stages train_throughput",
    "transforms.pose": "PersonCrop",
    "transforms.segmentation": "RandomScaleCropFlip ResizeFlipCrop",
    "workers": "auto_workers cpu_affinity usable_cpus",
}
"""Public names by module."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports a public name, or raises AttributeError."""
        for module, names in _MODULES.items():
            if name in names.split():
                value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
