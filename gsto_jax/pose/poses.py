"""The poses of a dataset."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Poses:
    """The poses of a dataset, in its order.

    Attributes:
      joints: float64; x and y in pixels of the image, and score.
      box_scores: scores of the person boxes; 1 for true boxes.
      areas: areas of the cropped frames in square pixels.
      image_ids: id of each person's image.
      person_ids: id of each person's annotation; -1 for detected boxes.
    """

    joints: Float[np.ndarray, "n j 3"]
    box_scores: Float[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]
    image_ids: Int[np.ndarray, " n"]
    person_ids: Int[np.ndarray, " n"]
