"""Heads of mmpose and mmsegmentation under the official code's names, where they are the same."""

import re
from collections.abc import Mapping, Set

import numpy as np

_COUNTER = ".num_batches_tracked"
_WRAPPER = re.compile(r"(?<![^.])module\.")
_POSE = re.compile(r"(?:keypoint_)?head\.final_layer\.(weight|bias)")
_SEGMENTATION = "decode_head."
_SEGMENTATION_HEAD = {
    "convs.0.conv.weight": "last_layer.0.weight",
    "convs.0.bn.weight": "last_layer.1.weight",
    "convs.0.bn.bias": "last_layer.1.bias",
    "convs.0.bn.running_mean": "last_layer.1.running_mean",
    "convs.0.bn.running_var": "last_layer.1.running_var",
    "conv_seg.weight": "last_layer.3.weight",
    "conv_seg.bias": "last_layer.3.bias",
}
_CONV_BIAS = "convs.0.conv.bias"


def official_heads(
    arrays: Mapping[str, np.ndarray], expected: Set[str]
) -> tuple[dict[str, str], dict[str, np.ndarray], tuple[str, ...]]:
    """Names the head of a model of mmpose or mmsegmentation as the official code does.

    Args:
      arrays: of the model, "backbone." and heads.
      expected: keys of the network to fill.

    Returns:
      Official names by the model's; arrays that the model lacks and the official code has; and
      what was done, in words. All empty where the head is another than HRNet's.
    """
    arrays = {key: value for key, value in arrays.items() if not key.startswith("backbone.")}
    keys = {_WRAPPER.sub("", key): key for key in arrays if not key.endswith(_COUNTER)}
    if pose := {keys[key]: f"final_layer.{m[1]}" for key in keys if (m := _POSE.fullmatch(key))}:
        return _pose_head(pose, keys)
    head = {
        key.removeprefix(_SEGMENTATION): name
        for key, name in keys.items()
        if key.startswith(_SEGMENTATION)
    }
    if not head:
        return {}, {}, ()
    shapes = {key: arrays[name].shape for key, name in head.items()}
    if (problem := _other_head(shapes)) or "last_layer.0.weight" not in expected:
        reason = problem or "this network has another"
        return {}, {}, (f"head of mmsegmentation left out: {reason}",)
    renamed = {name: _SEGMENTATION_HEAD[key] for key, name in head.items() if key != _CONV_BIAS}
    notes = ["decode_head is read as last_layer"]
    if _CONV_BIAS in head:
        return renamed | {head[_CONV_BIAS]: "last_layer.0.bias"}, {}, tuple(notes)
    weight = arrays[head["convs.0.conv.weight"]]
    notes.append("last_layer.0.bias is zeros, since mmsegmentation's convolution has none")
    zeros = np.zeros(weight.shape[0], weight.dtype)
    return renamed, {"last_layer.0.bias": zeros}, tuple(notes)


def _pose_head(
    renamed: dict[str, str], keys: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, np.ndarray], tuple[str, ...]]:
    others = [key for key in keys if re.match(r"(keypoint_)?head\.", key) and not _POSE.match(key)]
    if others:
        return {}, {}, (f"head of mmpose left out: it has {others[0]}, which HRNet's has not",)
    source = next(iter(renamed)).rpartition(".")[0]
    return renamed, {}, (f"{source} is read as final_layer",)


def _other_head(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Returns what tells a head of mmsegmentation from HRNetV2's, None where nothing does."""
    if extra := sorted(shapes.keys() - _SEGMENTATION_HEAD.keys() - {_CONV_BIAS}):
        return f"it has decode_head.{extra[0]}, which HRNetV2's has not"
    if missing := sorted(_SEGMENTATION_HEAD.keys() - shapes.keys()):
        return f"it lacks decode_head.{missing[0]}"
    kernels = {key: shapes[key] for key in ("convs.0.conv.weight", "conv_seg.weight")}
    for key, shape in kernels.items():
        if len(shape) != 4 or shape[2:] != (1, 1):
            return f"decode_head.{key} has shape {shape}, and HRNetV2's is of size 1x1"
    out, into, *_ = kernels["convs.0.conv.weight"]
    if out != into:
        return f"decode_head.convs.0.conv.weight maps {into} channels to {out}; HRNetV2 keeps them"
    return None
