"""What a run is evaluated on, whatever its task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from gsto_jax.training.task import Task

Record = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    Attributes:
      record: what to keep of it: step, split, protocol, scores.
      shown: tables and lines for people.
      scalars: numbers by name, for TensorBoard.
      images: pictures `h w 3` by name, for TensorBoard.
    """

    record: Record
    shown: Sequence[Any]
    scalars: Mapping[str, float]
    images: Mapping[str, np.ndarray] = field(default_factory=dict)


class EvalSet(Protocol):
    """Samples to evaluate on: `SegmentationSet` or `PoseSet`."""

    @property
    def split(self) -> str:
        """Its name."""
        ...

    @property
    def size(self) -> int:
        """How many samples it has."""
        ...

    @property
    def measure(self) -> str:
        """The score in `Outcome.record` that tells which checkpoint is best."""
        ...

    def evaluate(
        self,
        task: Task,
        variables: Any,
        mesh: Mesh,
        folder: Path,
        about: Record,
        stop: Callable[[], bool] = lambda: False,
    ) -> Outcome | None:
        """Evaluates, and leaves scores and pictures in a folder.

        Args:
          task: what was trained.
          variables: of the network.
          mesh: the devices.
          folder: where to; what is there stays until there is more.
          about: what is known beforehand: "step", "while_training".
          stop: asked after each batch whether to give up.

        Returns:
          What was found, or None if it was stopped.
        """
        ...
