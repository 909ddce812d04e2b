"""Pictures and labels as NumPy batches, for training and evaluation; needs no accelerator."""

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.folder import FolderSource
from data_pipelines.labels import CAMVID, CITYSCAPES, IGNORE_LABEL, SCENES, ClassTable
from data_pipelines.pipeline import Source, eval_batches, make_source, train_batches
from data_pipelines.scenes import ScenesSource
from data_pipelines.transforms import Placement, RandomScaleCropFlip

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "IGNORE_LABEL",
    "SCENES",
    "ClassTable",
    "DataConfig",
    "DataError",
    "FolderSource",
    "Placement",
    "RandomScaleCropFlip",
    "ScenesSource",
    "Source",
    "eval_batches",
    "make_source",
    "train_batches",
]
