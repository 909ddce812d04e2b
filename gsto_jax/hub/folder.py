"""Folders in the layout of the Hugging Face hub.

config.json               network by name, its options and labels, origin and license of its weights
model.safetensors         variables by path, such as "params/stem1/conv/kernel", in this package's
                          layout
preprocessor_config.json  normalization, sizes and padding, how image files are decoded
README.md                 model card
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.files import atomic_write, is_disk_full, to_json
from gsto_jax.hub.card import model_card
from gsto_jax.hub.names import Options, find_name, model_config
from gsto_jax.hub.origin import Origin
from gsto_jax.image_files import DecodeOptions
from gsto_jax.runs.checkpoint import package_versions
from gsto_jax.runs.initialization import network_options
from gsto_jax.runs.trained import TrainedModel
from gsto_jax.segmentation.protocol import protocol_from_config
from gsto_jax.storage import error_reason, is_folder, list_names
from gsto_jax.weights.hub_config import CONFIG, LIBRARY, WEIGHTS, read_hub_folder, unusable

PREPROCESSOR, CARD = "preprocessor_config.json", "README.md"


@dataclass(frozen=True)
class StoredNetwork:
    """A network in a hub folder, or in a run.

    Attributes:
      path: the folder, or the checkpoint.
      name: name of the network; see `list_models`.
      options: its options that differ from those of the name.
      num_classes: classes or joints.
      channels: channels of the images.
      task: task of the network.
      variables: its variables as NumPy arrays.
    """

    path: Path
    name: str
    options: Options
    num_classes: int
    channels: int
    task: str
    variables: dict[str, Any]

    @cached_property
    def config(self) -> ModelConfig:
        """Config of the network. Raises UserError for an unknown name or option."""
        return model_config(self.name, self.options)


def read_stored_network(path: Path) -> StoredNetwork | None:
    """Reads the network of a hub folder; None for any other path.

    Args:
      path: the folder, or the weights in it.

    Raises:
      UserError: a file is missing or damaged, or another version wrote it.
    """
    folder = read_hub_folder(path)
    if folder is None:
        return None
    config = folder.config
    network = StoredNetwork(
        path=folder.path,
        name=config["architecture"],
        options=dict(config["options"]),
        num_classes=config["num_classes"],
        channels=config["channels"],
        task=config["task"],
        variables=folder.variables,
    )
    try:
        _ = network.config
    except UserError as error:
        raise unusable(folder.path, error) from None
    return network


def write_hub_folder(
    folder: Path, trained: TrainedModel, origin: Origin, scores: Mapping[str, Any] | None
) -> list[Path]:
    """Writes a hub folder, as a whole or not at all.

    Args:
      folder: the folder, which must not exist or be empty.
      trained: the trained network.
      origin: where the weights came from, and their license.
      scores: record of an evaluation of the network, if there is one.

    Returns:
      Paths of the files.

    Raises:
      UserError: the folder is not empty, or cannot be written.
    """
    description = describe_network(trained) | {"weights": origin.record}
    contents = {
        WEIGHTS: to_safetensors(trained.variables),
        CONFIG: _to_text(description),
        PREPROCESSOR: _to_text(describe_preprocessing(trained.config)),
        CARD: model_card(trained, description, origin, scores).encode(),
    }
    try:
        if folder.exists() and (not is_folder(folder) or list_names(folder)):
            raise UserError(
                f"{folder} exists, and nothing in it is replaced: remove it, or use another "
                "--output"
            )
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            for name, content in contents.items():
                (temporary / name).write_bytes(content)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"{folder} cannot be written ({error_reason(error)}): use a writable --output"
        ) from None
    return [folder / name for name in contents]


def to_safetensors(variables: Any) -> bytes:
    """Returns a `.safetensors` file of variables, without loss."""
    leaves = flatten_dict(dict(variables), sep="/")
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    return bytes(save(arrays, {"format": "flax"}))


def describe_network(trained: TrainedModel) -> dict[str, Any]:
    """Returns the contents of config.json but for the origin of the weights."""
    task, values = trained.task, trained.config
    data, pose = values["data"], task.config.task == "pose"
    name, options = find_name(task.config.model, task.config.task)
    labels = list(data["keypoints"]["names"] if pose else data["classes"])
    return {
        "library_name": LIBRARY,
        "architecture": name,
        "options": options,
        "num_classes": task.num_classes,
        "channels": task.in_channels,
        "output_stride": task.config.model.output_stride,
        "task": task.config.task,
        "id2label": {str(n): label for n, label in enumerate(labels)},
        "label2id": {label: n for n, label in enumerate(labels)},
        **(
            {key: data["keypoints"][key] for key in ("flip_pairs", "skeleton", "sigmas")}
            if pose
            else {key: data[key] for key in ("palette", "ignore_label")}
        ),
        "name": task.config.name,
        "step": int(trained.path.name),
        "network_options": network_options(values),
        "versions": package_versions(),
    }


def describe_preprocessing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the contents of preprocessor_config.json for the config of a run.

    Its names are those of the hub's image processors where they have one.
    """
    data, evaluation = values["data"], values["eval"]
    shared = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": data["mean"],
        "image_std": data["std"],
        "channels": data["channels"],
        "decode_options": asdict(DecodeOptions.of(data)),
    }
    if values["task"] == "pose":
        height, width = data["crop"]
        return shared | {
            "do_resize": True,
            "size": {"height": height, "width": width},
            "do_pad": False,
            "box_padding": data["keypoints"]["padding"],
            "udp": data["keypoints"]["udp"],
            "flip_test": evaluation["flip"],
        }
    if values["task"] == "classification":
        height, width = data["crop"]
        return shared | {
            "do_resize": True,
            "size": {"height": height, "width": width},
            "do_pad": False,
            "crop_pct": data["image_crops"]["center"],
            "flip_test": evaluation["flip"],
        }
    size: dict[str, int] = {}
    if any(data["fixed_size"]):
        size = dict(zip(("height", "width"), data["fixed_size"], strict=True))
    elif data["base_size"]:
        size = {"longest_edge": data["base_size"]}
    padded = evaluation["pad_to"] != "published"
    return shared | {
        "do_resize": bool(size),
        "size": size,
        "do_pad": padded,
        "pad_size_divisor": evaluation["pad_to"] if padded else None,
        "pad_mode": evaluation["pad"],
        "test_protocol": str(protocol_from_config(values)),
    }


def _to_text(values: Mapping[str, Any]) -> bytes:
    return (to_json(values, indent=2) + "\n").encode()
