"""Tiny classification tasks."""

from types import SimpleNamespace

from gsto_jax.classification.task import ClassificationTask
from gsto_jax.config import Config
from gsto_jax.models.base import Outputs
from tests.gsto_jax.small_task import values


def class_values(**model):
    plain = values(head="cls", gtm=("none",) * 3, **model)
    plain["task"] = "classification"
    plain["data"] |= {"source": "class_folders", "classes": ("a", "b", "c")}
    return plain


class MeanTask(ClassificationTask):
    """Its logits are the means of the channels."""

    @property
    def model(self):
        def apply(_, images):
            return Outputs(images.mean((1, 2)), {}, {"stage4": [images]}, {})

        return SimpleNamespace(apply=apply)


def make_mean_task(**evaluation):
    plain = class_values()
    plain["eval"] |= {"sample_images": 2, "feature_images": 1} | evaluation
    plain["data"] |= {"crop": [16, 12], "image_crops": {"center": 0.875}}
    config = Config.from_dict({name: x for name, x in plain.items() if name != "data"})
    statistics = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    task = MeanTask(config=config, num_classes=3, classes=("a", "b", "c"), **statistics)
    return task, plain
