"""One process of an evaluation: test_processes.py starts several of it, and calls it itself.

python -m tests.gsto_jax.evaluation_process CASES DEVICES PORT COUNT INDEX FILE
"""

import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import SCENES, DataConfig, EvalBatches
from gsto_jax.devices.mesh import local_shard, make_mesh, put_batch, replicate
from gsto_jax.models.base import Outputs
from gsto_jax.segmentation.evaluate import evaluate
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.protocol import EvalProtocol
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.training.task import initial_state
from tests.gsto_jax.small_task import MEAN, STD, make_task, segmentation_task

CLASSES, LEVEL = 3, 80
SETS = {
    "small": ((37, 50), (50, 33), (37, 50), (29, 41), (37, 50), (50, 33), (37, 50)),
    "large": tuple((200 + 7 * (n % 3), 331 - 20 * (n % 2)) for n in range(17)),
}
PROTOCOLS = {
    "plain": {},
    "scales and flip": {"scales": (0.75, 1.5), "flip": True},
    "sliding": {"window": "slide", "crop": (32, 32), "scales": (0.75, 1.5), "pad": MEAN},
    "one size": {"fixed_size": (48, 48), "flip": True},
}


class Images:
    """Images of one gray level per class, with noise so that predictions contain errors."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def size(self, index):
        return self.sizes[index]

    def prediction(self, index):
        """Returns the prediction of the network of `FixedTask`."""
        height, width = self.sizes[index]
        coarse = np.random.default_rng(index).integers(
            0, CLASSES, (height // 8 + 1, width // 8 + 1)
        )
        return coarse.repeat(8, 0)[:height].repeat(8, 1)[:, :width].astype(np.uint8)

    def __getitem__(self, index):
        prediction, rng = self.prediction(index), np.random.default_rng([index, 1])
        noise = rng.integers(0, LEVEL // 3, (*prediction.shape, 3))
        image = (LEVEL * prediction[..., None] + noise).astype(np.uint8)
        label = np.roll(prediction, 3, 1)
        label[:2] = 255
        ids = 24000 + np.arange(label.size).reshape(label.shape) // 97 % 40
        instance = np.where(label == 0, ids, label).astype(np.uint16)
        return {"image": image, "label": label, "instance": instance, "index": index}


class FixedTask(SegmentationTask):
    """Its network tells a pixel's class by its gray level, far from any tie."""

    @property
    def model(self):
        def apply(_, images):
            red = (images[..., 0] * STD[0] + MEAN[0]) * 255
            level = (red + LEVEL // 3) / LEVEL
            classes = jnp.clip(jnp.floor(level), 0, CLASSES - 1).astype(jnp.int32)
            scores = 4 * jax.nn.one_hot(classes, CLASSES)
            return Outputs(scores, {}, {"stage4": []}, {})

        return SimpleNamespace(apply=apply)


def run(network, images, protocol, batch_size, mesh, host=0, hosts=1):
    """Evaluates; the counts and scores of the set, and this process' predictions by image."""
    task, source = make_task(1), Images(SETS[images])
    variables = initial_state(task, mesh).variables if network == "mini" else {}
    if network == "fixed":
        task = segmentation_task(FixedTask, config=task.config)
    options = {"classes": SCENES.names, "palette": SCENES.palette}
    drawn = {"image_size": (64, 64), "train_size": 1, "eval_size": 1}
    data = DataConfig(source="scenes", crop=(64, 64), **drawn, **options)
    padded_shapes = 0 if protocol == "plain" else 2
    batches = EvalBatches(
        data,
        source,
        batch_size // hosts,
        shard_index=host,
        shard_count=hosts,
        max_padded_shapes=padded_shapes,
    )
    result = {}

    def keep(batch, predictions, maps):
        for n in np.flatnonzero(batch["mask"]):
            height, width = batch["size"][n]
            result[f"image {batch['index'][n]}"] = predictions[n, :height, :width]

    counts = InstanceCounts(("a", "a", "b"), (9.0, 0.0, 0.0), {24: 0})
    test_protocol = EvalProtocol(**PROTOCOLS[protocol])
    scores = evaluate(
        task, variables, batches, mesh, test_protocol, on_batch=keep, instances=counts
    )
    return result | {
        "confusion": scores.confusion,
        "boundary": scores.boundary_iou,
        "instances": counts.class_counts,
        "instances of categories": counts.category_counts,
        "instance scores": scores.categories.instance_iou,
        "images": np.array(counts.images),
    }


def check_rows(mesh, index, count):
    """Checks that the global batch is that of a single process."""
    rows = np.arange(2 * mesh.size)
    part = np.split(rows, count)[index]
    batch = put_batch({"rows": part}, mesh)["rows"]
    np.testing.assert_array_equal(local_shard(batch), part)
    np.testing.assert_array_equal(replicate(batch, mesh), rows)


def main(cases, devices, port, count, index, path):
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.distributed.initialize(f"localhost:{port}", int(count), int(index))
    # A TPU slice too has its devices in another order than its processes.
    mesh = make_mesh(np.random.default_rng(0).permutation(jax.devices()).tolist())
    check_rows(mesh, int(index), int(count))
    assert mesh.size == int(count) * int(devices)
    results = {}
    for number, case in enumerate(json.loads(cases)):
        values = run(*case, mesh, int(index), int(count))
        results |= {f"{number} {name}": value for name, value in values.items()}
    np.savez(path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
