"""Writes PNGs of evaluated persons (needs OpenCV, from the `train` extra)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from gsto_jax.drawing.heat_maps import feature_figures
from gsto_jax.evaluation.loop import GetMaps
from gsto_jax.evaluation.png_writer import PngWriter
from gsto_jax.image_files import frame_to_crop
from gsto_jax.pose.panels import heatmap_figure, pose_panel
from gsto_jax.pose.task import PoseTask

PNG_KINDS = ("sample", "heatmaps", "branches", "gates")
"""Kinds of PNGs that `PosePngWriter` draws of a person."""


class PosePngWriter(PngWriter):
    """Writes PNGs of evaluated persons: `NAME.png` is the panel of a person.

    The first persons also have `NAME_heatmaps.png`, `NAME_branches.png` and, for a gated network,
    `NAME_gates.png` (see `gsto_jax.drawing.heat_maps`).

    Args:
      folder: output folder of the PNGs.
      task: trained task.
      name: returns the file name, less ".png", of the person of an index; may have slashes.
    """

    def __init__(self, folder: Path, task: PoseTask, name: Callable[[int], str]) -> None:
        evaluation = task.config.eval
        super().__init__(folder, evaluation.sample_images, evaluation.feature_images, name)
        self.task = task

    def draw(
        self, sample: Mapping[str, np.ndarray], prediction: np.ndarray, maps: GetMaps
    ) -> Iterator[tuple[str, np.ndarray]]:
        """See `PngWriter.draw`; the prediction is joints `j 3` in pixels of the image."""
        task, image = self.task, sample["image"]
        truth = np.concatenate([sample["joints"], sample["visible"][:, None]], -1)
        pose = to_crop(prediction, sample["center"], sample["frame"], image.shape, task.udp)
        if self.wants_sample:
            yield (
                "sample",
                pose_panel(
                    image,
                    truth if (truth[:, 2] > 0).any() else None,
                    pose,
                    maps()["heatmaps"],
                    task.skeleton,
                    task.config.pose.visibility_threshold,
                ),
            )
        if self.wants_features:
            features = dict(maps())
            yield "heatmaps", heatmap_figure(image, features.pop("heatmaps"), task.joints)
            yield from feature_figures(image, features)


def to_crop(
    joints: np.ndarray,
    center: np.ndarray,
    frame: np.ndarray,
    shape: tuple[int, ...],
    udp: bool = False,
) -> np.ndarray:
    """Maps joints `j 3` from image pixels to pixels of a person crop of shape `h w 3`."""
    matrix = frame_to_crop(center, frame, 0.0, (shape[0], shape[1]), udp)
    points = joints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([points, joints[:, 2:]], -1)
