"""COCO and labelme annotations in JSON, drawn as label maps."""

from data_pipelines.annotations.coco import read_coco
from data_pipelines.annotations.image_index import ImageIndex
from data_pipelines.annotations.label_folders import LabelFolder, draw_label_folders
from data_pipelines.annotations.labelme import read_labelme
from data_pipelines.annotations.painting import Painter, category_targets
from data_pipelines.annotations.reading import read_annotations
from data_pipelines.annotations.shapes import AnnotatedImage, Annotations, Shape

__all__ = [
    "AnnotatedImage",
    "Annotations",
    "ImageIndex",
    "LabelFolder",
    "Painter",
    "Shape",
    "category_targets",
    "draw_label_folders",
    "read_annotations",
    "read_coco",
    "read_labelme",
]
