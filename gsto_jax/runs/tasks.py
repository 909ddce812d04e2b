"""Builds the task of a config."""

from collections.abc import Mapping
from typing import Any

from gsto_jax.classification.task import ClassificationTask
from gsto_jax.config import Config
from gsto_jax.errors import UserError
from gsto_jax.pose.task import PoseTask
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.training.task import Task


def task_from_config(config: Mapping[str, Any], steps: int = 1) -> Task:
    """Builds the task of a config.

    Args:
      config: all options as plain values, including the data options, as in a checkpoint.
      steps: length of the run, for the learning-rate schedule.

    Raises:
      UserError: an option is invalid.
    """
    data = config["data"]
    options = Config.from_dict({name: value for name, value in config.items() if name != "data"})
    shared = {"config": options, "mean": data["mean"], "std": data["std"], "steps": steps}
    if options.task == "segmentation":
        return SegmentationTask(
            num_classes=len(data["classes"]),
            ignore_label=data["ignore_label"],
            class_weights=tuple(data["class_weights"]) or None,
            **shared,
        )
    if options.task == "classification":
        classes = data["classes"]
        return ClassificationTask(num_classes=len(classes), classes=classes, **shared)
    keypoints = data["keypoints"]
    if not keypoints["names"]:
        raise UserError("config.data.keypoints.names must not be empty for a pose task")
    return PoseTask(
        num_classes=len(keypoints["names"]),
        joints=keypoints["names"],
        flip_pairs=keypoints["flip_pairs"],
        skeleton=keypoints["skeleton"],
        sigmas=keypoints["sigmas"],
        udp=keypoints["udp"],
        **shared,
    )
