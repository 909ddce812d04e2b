"""Class probabilities of images, computed on the device."""

from functools import cached_property
from typing import Any

import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from gsto_jax.classification.task import ClassificationTask, probability_step
from gsto_jax.devices.mesh import put_batch
from gsto_jax.evaluation.loop import Batch, CompiledPrograms
from gsto_jax.ops.flip import flip


def predict_probabilities(
    task: ClassificationTask, mesh: Mesh, variables: Any, batch: Batch
) -> tuple[Float[Array, "b k"], dict[str, Array]]:
    """Predicts the class probabilities of a batch with "image" `b h w c` uint8.

    With `eval.flip` they are the mean of those of the image and of its flip.

    Returns:
      The probabilities, and the feature maps of `probability_step`.
    """
    programs = ClassificationPrograms.for_task(task, mesh)

    def run(image: np.ndarray) -> tuple[Array, dict[str, Array]]:
        outputs: tuple[Array, dict[str, Array]] = programs.probabilities(
            variables, put_batch({"image": image}, mesh)["image"]
        )
        return outputs

    probabilities, features = run(batch["image"])
    if task.config.eval.flip:
        flipped, _ = run(np.ascontiguousarray(flip(batch["image"])))
        probabilities = (probabilities + flipped) / 2
    return probabilities, features


class ClassificationPrograms(CompiledPrograms):
    """Compiled programs of a classification task; see `CompiledPrograms`."""

    @cached_property
    def probabilities(self) -> Any:
        """`gsto_jax.classification.task.probability_step`."""
        return self.compile_network(probability_step, "the network")
