"""A pose task whose network is one convolution, and its outputs in ONNX, for a subprocess."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.models.base import Outputs
from gsto_jax.pose.task import PoseTask
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.pose_program import pose_source
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel
from tests.gsto_jax.pose_runs import pose_values

BOXES = np.array([[20.5, 30.25, 80, 150], [-10, -5, 60, 60], [170, 120, 100, 40], [90, 9, 2, 5]])
"""Inside, beyond a corner, wider than high, and tiny."""


class SmallPoseTask(PoseTask):
    """Its network is a random filter of stride 4."""

    @property
    def model(self):
        shape = (7, 7, 3, self.num_classes)
        kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32) / 7

        def apply(_, images):
            maps = jax.lax.conv_general_dilated(
                images,
                jnp.asarray(kernel),
                (4, 4),
                [(3, 3), (3, 3)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return Outputs(maps, {}, {"stage4": [maps]}, {})

        return SimpleNamespace(apply=apply)


def make_pose_predictor(refinement="quarter", flip=True, shift=True, udp=False):
    config = pose_values(
        pose={"refinement": refinement, "shift_heatmap": shift}, eval={"flip": flip}
    )
    config["data"]["keypoints"]["udp"] = udp
    task = task_from_config(config, 10)
    task = SmallPoseTask(**{x.name: getattr(task, x.name) for x in fields(task) if x.init})
    return PosePredictor(
        TrainedModel(task, {}, make_mesh(jax.devices()[:1]), Path("run/7"), config)
    )


def random_image():
    coarse = np.random.default_rng(1).integers(0, 256, (11, 15, 3), np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)[:169, :231]


def onnx_error(refinement):
    """Returns the largest difference of the joints of ONNX from those of the predictor."""
    import onnxruntime

    from gsto_jax.predict.onnx_export import onnx_model

    jax.config.update("jax_platforms", "cpu")
    predictor = make_pose_predictor(refinement)
    content = onnx_model(pose_source(predictor), None).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    errors = []
    for count in (4, 1):
        boxes = BOXES[:count]
        inputs = {"image": random_image(), "boxes": boxes.astype(np.float32)}
        joints, scores = session.run(["joints", "scores"], inputs)
        prediction = predictor(random_image(), boxes)
        errors.append(np.abs(joints - prediction.poses).max())
        errors.append(np.abs(scores - prediction.scores).max())
    return float(max(errors))
