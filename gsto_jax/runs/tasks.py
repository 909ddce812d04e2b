"""The task that a configuration describes."""

from collections.abc import Mapping
from typing import Any

from gsto_jax.config import Config
from gsto_jax.errors import UserError
from gsto_jax.pose.task import PoseTask
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.training.task import Task


def task_of(config: Mapping[str, Any], steps: int = 1) -> Task:
    """The task that a whole configuration describes.

    Args:
      config: all settings as plain values, those of the data too: what a checkpoint keeps.
      steps: length of the run, for the schedule.

    Raises:
      UserError: a setting that cannot work.
    """
    data = config["data"]
    settings = Config.from_dict({name: value for name, value in config.items() if name != "data"})
    shared = {"config": settings, "mean": data["mean"], "std": data["std"], "steps": steps}
    if settings.task == "segmentation":
        return SegmentationTask(
            num_classes=len(data["classes"]),
            ignore_label=data["ignore_label"],
            class_weights=tuple(data["class_weights"]) or None,
            **shared,
        )
    keypoints = data["keypoints"]
    if not keypoints["names"]:
        raise UserError("config.data.keypoints.names is empty: a pose task needs joints")
    return PoseTask(
        num_classes=len(keypoints["names"]),
        joints=keypoints["names"],
        flip_pairs=keypoints["flip_pairs"],
        skeleton=keypoints["skeleton"],
        sigmas=keypoints["sigmas"],
        **shared,
    )
