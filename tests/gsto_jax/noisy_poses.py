"""Poses from annotations, with noise."""

import numpy as np

from gsto_jax.pose.evaluate import Poses


def poses_from_annotations(people, noise=0.0):
    """Converts annotations to poses with Gaussian noise of a standard deviation."""
    joints = np.array([p["keypoints"] for p in people], float).reshape(len(people), -1, 3)
    joints[..., :2] += np.random.default_rng(0).normal(0, 1, joints[..., :2].shape) * noise
    joints[..., 2] = joints[..., 2] > 0
    areas = np.array([p["area"] for p in people])
    images = np.array([p["image_id"] for p in people])
    ids = np.array([p.get("id", -1) for p in people])
    return Poses(joints, np.ones(len(people)), areas, images, ids)
