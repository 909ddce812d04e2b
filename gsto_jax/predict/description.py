"""Descriptions of exports: the content of `model.json` and of the metadata of ONNX files."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from gsto_jax.ops.sizes import PUBLISHED
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.program_source import ProgramSource
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import single_pass_protocol
from gsto_jax.runs.checkpoint import package_versions
from gsto_jax.types import Size

ExportablePredictor = Predictor | PosePredictor | ClassPredictor
"""Predictors whose programs are exported."""
PLATFORMS = ("cpu", "cuda", "tpu")
OPSET = 21
_ONNX_PACKAGES = ("jax2onnx", "onnx", "onnxruntime")


def describe(
    predictor: ExportablePredictor,
    source: ProgramSource,
    formats: Sequence[str],
    size: Size | None,
) -> dict[str, Any]:
    """Describes an export; docs/export.md lists the fields."""
    data = predictor.config["data"]
    has_onnx = any(name.startswith("onnx") for name in formats)
    return {
        "task": predictor.task_name,
        "checkpoint": str(predictor.checkpoint),
        "step": int(predictor.checkpoint.name),
        **_names(predictor),
        "mean": data["mean"],
        "std": data["std"],
        "decode_options": asdict(predictor.decode_options),
        "preprocessing": preprocessing(predictor),
        "inputs": {name: asdict(spec) for name, spec in source.inputs.items()},
        "outputs": {name: asdict(spec) for name, spec in source.outputs.items()},
        "onnx_size": size,
        "onnx_opset": OPSET,
        "platforms": PLATFORMS,
        "versions": package_versions()
        | {name: version(name) for name in _ONNX_PACKAGES if has_onnx},
        "settings": predictor.config,
    }


def _names(predictor: ExportablePredictor) -> dict[str, Any]:
    if isinstance(predictor, Predictor):
        return {"classes": predictor.classes, "palette": predictor.palette}
    if isinstance(predictor, ClassPredictor):
        return {"classes": predictor.classes}
    task = predictor.task
    return {
        "joints": task.joints,
        "flip_pairs": task.flip_pairs,
        "skeleton": task.skeleton,
        "visibility_threshold": task.config.pose.visibility_threshold,
    }


def preprocessing(predictor: ExportablePredictor) -> dict[str, Any]:
    """Describes the steps of the program around the network."""
    data, normalization = predictor.config["data"], "(pixel / 255 - mean) / std"
    if isinstance(predictor, ClassPredictor):
        return {
            "crop": data["crop"],
            "center": data["image_crops"]["center"],
            "normalization": normalization,
            "flip": predictor.task.config.eval.flip,
        }
    if isinstance(predictor, PosePredictor):
        options = predictor.task.config
        return {
            "crop": data["crop"],
            "padding": data["keypoints"]["padding"],
            "normalization": normalization,
            "flip": options.eval.flip,
            "shift_heatmap": predictor.task.shifts_flipped,
            "udp": predictor.task.udp,
            "refinement": options.pose.refinement,
        }
    protocol = single_pass_protocol(predictor.protocol)
    return {
        "long_side": predictor.long_side,
        "base_size": protocol.base_size,
        "fixed_size": protocol.fixed_size,
        "pad_to": protocol.pad_to or PUBLISHED,
        "pad": predictor.trained.task.config.eval.pad,
        "normalization": normalization,
        "test_protocol": "" if predictor.protocol.is_single_pass else str(predictor.protocol),
    }
