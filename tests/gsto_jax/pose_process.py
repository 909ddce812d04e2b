"""One process of an evaluation of poses: test_pose_evaluation.py starts two of it.

python -m tests.gsto_jax.pose_process ADDRESS COUNT INDEX FOLDER
"""

import sys
from pathlib import Path

import jax

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.pose.eval_set import PoseEvalSet
from gsto_jax.training.task import initial_state
from tests.gsto_jax.pose_runs import annotations, batches, pose_task


def evaluate(mesh, index, count, folder):
    """Evaluates six persons, two at a time over all processes, by a network of random weights."""
    task = pose_task(gfm=False, eval={"batch_size": 2, "feature_images": 1, "sample_images": -1})
    mine = [{k: v[index::count] for k, v in batch.items()} for batch in batches(2)]
    people = annotations()
    persons = PoseEvalSet(
        split="val",
        size=6,
        boxes="ground-truth boxes",
        detected=False,
        batches=mine,
        annotations=lambda: people,
        image_ids=sorted({p["image_id"] for p in people}),
        name=lambda n: f"person{n}",
    )
    about = {"step": 0, "while_training": False}
    variables = initial_state(task, mesh).variables
    return persons.evaluate(task, variables, mesh, folder, about)


if __name__ == "__main__":
    address, count, index, folder = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))
    evaluate(make_mesh(), int(index), int(count), Path(folder))
