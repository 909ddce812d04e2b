"""Checks the config options of labels, and of the images that are held out for evaluation."""

from typing import TYPE_CHECKING

from data_pipelines.labels import IGNORE_LABEL

if TYPE_CHECKING:
    from data_pipelines.config import DataConfig


def check_id_map(config: "DataConfig") -> None:
    """Raises DataError if `id_map` repeats an id or names no class."""
    file_ids = [file_id for file_id, _ in config.id_map]
    last = len(config.classes) - 1
    expected = f"pairs with a train id in 0..{last} or the ignore label {config.ignore_label}"
    for pair in config.id_map:
        file_id, train_id = pair
        unique = file_ids.count(file_id) == 1
        config.require(unique, "id_map", f"pairs with one train id for id {file_id}", pair)
        ignored = train_id in (IGNORE_LABEL, config.ignore_label)
        config.require(0 <= train_id <= last or ignored, "id_map", expected, pair)


def check_label_encoding(config: "DataConfig") -> None:
    """Raises DataError if the options of labels that are colors do not go together."""
    if config.label_encoding == "ids":
        for name in ("extra_colors", "ignore_colors", "color_tolerance"):
            expected = "left out unless data.label_encoding=colors"
            config.require(not getattr(config, name), name, expected)
        return
    files = config.source == "folder" and config.keypoints is None
    expected = "ids unless data.source=folder, without data.keypoints"
    config.require(files, "label_encoding", expected)
    expected = "() with data.label_encoding=colors, since data.palette has the color of each class"
    config.require(not config.id_map, "id_map", expected)
    expected = "different colors, each of one class or ignored"
    class_colors = (*config.palette, *(color for color, _ in config.extra_colors))
    for name, colors, others in (
        ("palette", config.palette, ()),
        ("extra_colors", class_colors, ()),
        ("ignore_colors", config.ignore_colors, class_colors),
    ):
        for color in colors:
            config.require((*colors, *others).count(color) == 1, name, expected, color)
    expected = f"pairs (RGB color, class) with a class of {', '.join(config.classes)}"
    for pair in config.extra_colors:
        config.require(pair[1] in config.classes, "extra_colors", expected, pair)


def check_val_fraction(config: "DataConfig") -> None:
    """Raises DataError if no part of the training images can be held out for evaluation."""
    if not config.val_fraction:
        return
    expected = "0 with data.source=scenes, which draws its own evaluation images"
    config.require(config.source != "scenes", "val_fraction", expected)
    expected = "another name than data.train_split with data.val_fraction"
    config.require(config.eval_split != config.train_split, "eval_split", expected)
