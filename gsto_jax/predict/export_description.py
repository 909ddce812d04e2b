"""What `model.json` says of an export: everything that its user must know."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from gsto_jax.ops.padding import PUBLISHED
from gsto_jax.predict.one_pass import one_pass_of
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.runs.checkpoint import versions
from gsto_jax.types import Size

PLATFORMS = ("cpu", "cuda", "tpu")


def describe_export(
    predictor: Predictor, contents: Mapping[str, bytes], size: Size | None
) -> dict[str, Any]:
    """Describes an export: classes, preprocessing, inputs, outputs, files, versions, settings.

    Args:
      predictor: of the checkpoint.
      contents: of the files, by name.
      size: (h, w) that `model.onnx` takes; None: any.
    """
    data, classes = predictor.config["data"], len(predictor.classes)
    stride = predictor.trained.task.config.model.output_stride
    packages = [name for name in ("jax2onnx", "onnx", "onnxruntime") if "model.onnx" in contents]
    return {
        "checkpoint": str(predictor.path),
        "step": int(predictor.path.name),
        "classes": predictor.classes,
        "palette": predictor.palette,
        "mean": data["mean"],
        "std": data["std"],
        "image_rule": asdict(predictor.rule),
        "preprocessing": preprocessing(predictor),
        "input": {"name": "image", "shape": ["b", "h", "w", 3], "dtype": "uint8", "color": "RGB"},
        "outputs": {
            "labels": {"shape": ["b", "h", "w"], "dtype": "uint8"},
            "logits": {
                "shape": ["b", f"ceil(H/{stride})", f"ceil(W/{stride})", classes],
                "dtype": "float32",
            },
        },
        "onnx_size": size,
        "platforms": PLATFORMS,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
        "versions": versions() | {name: version(name) for name in packages},
        "settings": predictor.config,
    }


def preprocessing(predictor: Predictor) -> dict[str, Any]:
    """Describes what the programs do to an image before the network, and what they leave out."""
    protocol = one_pass_of(predictor.protocol)
    return {
        "long_side": predictor.long_side,
        "base_size": protocol.base_size,
        "fixed_size": protocol.fixed_size,
        "pad_to": protocol.pad_to or PUBLISHED,
        "pad": predictor.trained.task.config.eval.pad,
        "normalization": "(pixel / 255 - mean) / std",
        "test_protocol": "" if predictor.protocol.is_one_pass else str(predictor.protocol),
    }
