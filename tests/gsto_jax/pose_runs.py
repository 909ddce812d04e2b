"""Tiny pose tasks and random persons."""

import importlib
import json
from dataclasses import replace

import numpy as np

from gsto_jax.runs.tasks import task_from_config

SIZE = (64, 48)
FIRST_IMAGE = 12345678901234567
"""Id of the first image, which float64 cannot represent."""


def pose_values(gfm=True, **sections):
    """Returns the config of `configs/coco_pose_w32.py` with a tiny network, as plain values.

    Without `gfm` the network has its heads and the gates of the GTMs, and compiles faster.
    """
    config = importlib.import_module("configs.coco_pose_w32").get_config()
    plain = json.loads(config.to_json())
    plain["model"] |= {"variant": "mini", "init": "he", "bn_momentum": 0.5}
    plain["model"]["hrnet"]["gfm"] = gfm
    plain["data"]["crop"] = list(SIZE)
    plain["pose"]["sigma"] = 1.5
    plain["eval"] |= {"batch_size": 4, "feature_images": 1}
    for name, changes in sections.items():
        plain[name] |= changes
    return plain


def pose_task(steps=10, gfm=True, **sections):
    """Returns a task with the config of `pose_values`."""
    return replace(task_from_config(pose_values(gfm, **sections), steps), platform="cpu")


def persons(count=6, seed=0):
    """Yields persons: gray noise with a bright spot at each joint."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    y, x = np.mgrid[:height, :width]
    for n in range(count):
        joints = rng.uniform((6, 6), (width - 6, height - 6), (17, 2)).astype(np.float32)
        visible = (rng.random(17) < 0.8).astype(np.float32)
        image = rng.integers(0, 60, (height, width, 3)).astype(np.float32)
        for j in np.flatnonzero(visible):
            near = np.exp(-((x - joints[j, 0]) ** 2 + (y - joints[j, 1]) ** 2) / 8)
            color = np.random.default_rng(j).uniform(80, 190, 3)
            image += near[..., None] * color
        center = rng.uniform(50, 100, 2).astype(np.float32)
        frame = np.array([2 * width, 2 * height], np.float32)
        middle = np.array([width / 2, height / 2])
        yield {
            "image": image.clip(0, 255).astype(np.uint8),
            "joints": joints,
            "original_joints": ((joints - middle) * 2 + center).astype(np.float32),
            "visible": visible,
            "center": center,
            "frame": frame,
            "area": np.float32(frame.prod() / 3),
            "box": np.array([*(center - frame / 2.5), *(frame / 1.25)], np.float32),
            "score": np.float32(1),
            "image_id": np.int64(FIRST_IMAGE + n // 2),
            "person_id": np.int64(n),
            "index": np.int32(n),
        }


def batches(size, count=6, seed=0):
    """Returns persons in batches; the last batch is padded and masked."""
    result = list(persons(count, seed))
    result_batches = []
    for start in range(0, count, size):
        rows = [result[min(n, count - 1)] for n in range(start, start + size)]
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        result_batches.append(batch | {"mask": np.arange(start, start + size) < count})
    return result_batches


def annotations(count=6, seed=0):
    """Returns the same persons as COCO annotations."""
    result = []
    for row in persons(count, seed):
        joints = np.concatenate([row["original_joints"], 2 * row["visible"][:, None]], -1)
        result.append(
            {
                "id": int(row["person_id"]) + 1,
                "image_id": int(row["image_id"]),
                "category_id": 1,
                "iscrowd": 0,
                "area": float(row["area"]),
                "bbox": row["box"].tolist(),
                "keypoints": (joints * joints[:, 2:].clip(0, 1)).ravel().tolist(),
                "num_keypoints": int(row["visible"].sum()),
            }
        )
    return result
