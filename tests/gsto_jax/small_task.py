"""A segmentation task of the quickstart's network, and batches of synthetic images."""

import importlib
import json

import numpy as np

from gsto_jax.config import Config
from gsto_jax.segmentation.task import SegmentationTask

FAST = {"variant": "resnet_mini"}
"""Model options for tests of whatever surrounds the network: no other compiles as fast."""
GATED = FAST | {"context_net": {"module": "ppm", "gating": "supervised"}}
"""As fast a network with gates and two more heads."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def values(**model):
    config = importlib.import_module("configs.quickstart").get_config()
    plain = json.loads(config.to_json())
    hrnet = plain["model"]["hrnet"]
    hrnet |= {"gfm_style": "released", "gtm_style": "released"}
    for name, value in model.items():
        (hrnet if name in hrnet else plain["model"])[name] = value
    plain["run"]["log_every"] = 2
    plain["eval"]["batch_size"] = 4
    return plain


def segmentation_task(kind=SegmentationTask, **fields):
    """A task of three classes."""
    return kind(**{"num_classes": 3, "mean": MEAN, "std": STD, "platform": "cpu"} | fields)


def make_task(steps, sections=None, class_weights=None, **model):
    """A task of three classes, by default with the network `FAST`."""
    plain = {k: v for k, v in values(**(model or FAST)).items() if k != "data"}
    for name, changes in (sections or {}).items():
        plain[name] |= changes
    fields = {"config": Config.from_dict(plain), "class_weights": class_weights}
    return segmentation_task(steps=steps, **fields)


def batches(count=4, side=64):
    """The same few images for ever: class by brightness, a border of ignored pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, (count, side // 16, side // 16))
    label = coarse.repeat(16, 1).repeat(16, 2).astype(np.uint8)
    image = (60 + 80 * label[..., None] + rng.integers(0, 40, (*label.shape, 3))).astype(np.uint8)
    label[:, :2] = 255
    batch = {
        "image": image,
        "label": label,
        "size": np.full((count, 2), side, np.int32),
        "index": np.arange(count, dtype=np.int32),
        "mask": np.ones(count, bool),
    }
    while True:
        yield batch
