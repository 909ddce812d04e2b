"""Pictures and labels as NumPy batches, for training and evaluation; needs no accelerator."""

from data_pipelines.audit import Audit, Inspection, audit, audit_sample
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.folder import FolderSource
from data_pipelines.labels import CAMVID, CITYSCAPES, IGNORE_LABEL, SCENES, ClassTable
from data_pipelines.pipeline import (
    Source,
    TrainBatches,
    eval_batches,
    make_source,
    train_batches,
)
from data_pipelines.scenes import ScenesSource
from data_pipelines.transforms import Placement, RandomScaleCropFlip

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "IGNORE_LABEL",
    "SCENES",
    "Audit",
    "ClassTable",
    "DataConfig",
    "DataError",
    "FolderSource",
    "Inspection",
    "Placement",
    "RandomScaleCropFlip",
    "ScenesSource",
    "Source",
    "TrainBatches",
    "audit",
    "audit_sample",
    "eval_batches",
    "make_source",
    "train_batches",
]
