"""The task that a configuration describes."""

from collections.abc import Mapping
from typing import Any

from gsto_jax.config import Config
from gsto_jax.errors import UserError
from gsto_jax.pose.task import PoseTask
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
    look = (data["ignore_label"], data["mean"], data["std"], steps)
    if settings.task == "segmentation":
        return Task(settings, len(data["classes"]), *look, tuple(data["class_weights"]) or None)
    keypoints = data["keypoints"]
    if not keypoints["names"]:
        raise UserError("config.data.keypoints.names is empty: a pose task needs joints")
    return PoseTask(
        settings,
        len(keypoints["names"]),
        *look,
        joints=keypoints["names"],
        flip_pairs=keypoints["flip_pairs"],
        skeleton=keypoints["skeleton"],
        sigmas=keypoints["sigmas"],
    )
