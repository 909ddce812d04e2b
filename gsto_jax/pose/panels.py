"""Images of the persons of an evaluation (needs OpenCV)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from gsto_jax.drawing.heat_maps import explanations
from gsto_jax.evaluation.png_writer import PngWriter
from gsto_jax.pose.drawing import heatmap_figure, pose_panel
from gsto_jax.pose.task import PoseTask

KINDS = ("sample", "heatmaps", "branches", "gates")


class PoseWriter(PngWriter):
    """Writes what an evaluation saw of persons: `NAME.png` is the panel of one.

    The first ones also get `NAME_heatmaps.png`, `NAME_branches.png` and, with a gated network,
    `NAME_gates.png`.

    Args:
      folder: where to.
      task: what was trained.
      name: file name, less ".png", of the person of an index; may hold slashes.
    """

    def __init__(self, folder: Path, task: PoseTask, name: Callable[[int], str]) -> None:
        chosen = task.config.eval
        super().__init__(folder, chosen.sample_images, chosen.feature_images, name)
        self.task = task

    def draw(
        self,
        batch: Mapping[str, np.ndarray],
        predictions: np.ndarray,
        maps: Callable[[], Mapping[str, np.ndarray]],
        n: int,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """See `PngWriter.draw`; predictions are joints `b j 3` in pixels of the images."""
        image = batch["image"][n]
        truth = np.concatenate([batch["joints"][n], batch["visible"][n][:, None]], -1)
        labeled = truth if (truth[:, 2] > 0).any() else None
        pose = to_crop(predictions[n], batch["center"][n], batch["frame"][n], image.shape)
        if self.is_drawn:
            look = (self.task.skeleton, self.task.config.pose.visible)
            yield "sample", pose_panel(image, labeled, pose, maps()["heatmaps"][n], *look)
        if self.is_explained:
            shown = {name: values[n] for name, values in maps().items()}
            yield "heatmaps", heatmap_figure(image, shown.pop("heatmaps"), self.task.joints)
            yield from explanations(image, shown)


def to_crop(
    joints: np.ndarray, center: np.ndarray, frame: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Joints `j 3` in pixels of what the network saw, `h w 3` of this shape, out of the image."""
    middle = np.array([shape[1] / 2, shape[0] / 2])
    places = (joints[:, :2] - center) * (shape[1] / frame[0]) + middle
    return np.concatenate([places, joints[:, 2:]], -1)
