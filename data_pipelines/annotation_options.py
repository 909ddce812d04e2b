"""Checks the config options of labels that `--mode=prepare` draws from annotations."""

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_pipelines.config import DataConfig

IGNORE = "ignore"
"""Name that stands for `ignore_label` in `DataConfig.category_map`."""
BACKGROUND = "background"
"""Name of the class of pixels that no annotation covers."""


def check_annotations(config: "DataConfig") -> None:
    """Raises DataError if `annotations` and `category_map` do not fit the other options."""
    if not config.annotations:
        config.require(not config.category_map, "category_map", "() without data.annotations")
        return
    files = config.source == "folder" and not config.list_file and config.keypoints is None
    expected = "'' unless data.source=folder, without data.list_file and data.keypoints"
    config.require(files, "annotations", expected)
    varies = "{split}" in config.annotations
    expected = f"a path {'with' if varies else 'without'} {{split}}, as data.annotations"
    config.require(("{split}" in config.labels) == varies, "labels", expected)
    others = [posixpath.normpath(path) for path in (config.images, config.annotations)]
    expected = "another folder than data.images and data.annotations"
    config.require(posixpath.normpath(config.labels) not in others, "labels", expected)
    drawn = "with data.annotations, whose labels --mode=prepare draws"
    for name in ("label_suffix", "id_map"):
        config.require(not getattr(config, name), name, f"left out {drawn}")
    config.require(config.label_encoding == "ids", "label_encoding", f"ids {drawn}")
    categories = [category for category, _ in config.category_map]
    expected = f"pairs of a category and one of the classes, or {IGNORE!r}"
    for pair in config.category_map:
        unique = categories.count(pair[0]) == 1
        config.require(unique, "category_map", "pairs with one class per category", pair)
        config.require(pair[1] in (*config.classes, IGNORE), "category_map", expected, pair)
