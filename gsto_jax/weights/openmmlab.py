"""Renames the heads of mmpose and mmsegmentation to the official HRNet names."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np

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


@dataclass(frozen=True)
class ConvertedHead:
    """A head under the official names."""

    names: dict[str, str] = field(default_factory=dict)  # official keys by keys of the model
    added: dict[str, np.ndarray] = field(default_factory=dict)  # arrays that the model lacks
    notes: tuple[str, ...] = ()


def convert_head(arrays: Mapping[str, np.ndarray], expected: Set[str]) -> ConvertedHead:
    """Converts the HRNet head of an mmpose or mmsegmentation model, if it has one.

    Args:
      arrays: Arrays of the whole model, backbone and heads.
      expected: Official keys of the network to load.
    """
    # Keys of the model by their names without DDP's segments.
    keys = {
        re.sub(r"(?<![^.])module\.", "", key): key
        for key in arrays
        if not key.startswith("backbone.") and not key.endswith(".num_batches_tracked")
    }
    pose_keys = [key for key in keys if re.match(r"(keypoint_)?head\.", key)]
    final = re.compile(r"(?:keypoint_)?head\.final_layer\.(weight|bias)")
    if any(map(final.fullmatch, pose_keys)):
        if extra := [key for key in pose_keys if not final.match(key)]:
            return _skip_head("mmpose", f"it has {extra[0]}, unlike HRNet")
        names = {keys[k]: f"final_layer.{m[1]}" for k in pose_keys if (m := final.fullmatch(k))}
        source = pose_keys[0].rpartition(".")[0]
        return ConvertedHead(names, notes=(f"{source} loaded as final_layer",))
    prefix = "decode_head."
    head = {key.removeprefix(prefix): keys[key] for key in keys if key.startswith(prefix)}
    return _convert_decode_head(head, arrays, expected) if head else ConvertedHead()


def _convert_decode_head(
    head: Mapping[str, str], arrays: Mapping[str, np.ndarray], expected: Set[str]
) -> ConvertedHead:
    problem = _head_difference({key: arrays[name].shape for key, name in head.items()})
    if not problem and "last_layer.0.weight" not in expected:
        problem = "this network has another head"
    if problem:
        return _skip_head("mmsegmentation", problem)
    names = {head[key]: official for key, official in _SEGMENTATION_HEAD.items()}
    note = "decode_head loaded as last_layer"
    if _CONV_BIAS in head:
        return ConvertedHead(names | {head[_CONV_BIAS]: "last_layer.0.bias"}, notes=(note,))
    weight = arrays[head["convs.0.conv.weight"]]
    zeros = {"last_layer.0.bias": np.zeros(weight.shape[0], weight.dtype)}
    reason = "last_layer.0.bias set to zeros: mmsegmentation's convolution has no bias"
    return ConvertedHead(names, zeros, (note, reason))


def _skip_head(framework: str, reason: str) -> ConvertedHead:
    return ConvertedHead(notes=(f"{framework} head not loaded: {reason}",))


def _head_difference(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Returns the difference of an mmsegmentation head from the HRNetV2 head; "" for none."""
    if extra := sorted(shapes.keys() - _SEGMENTATION_HEAD.keys() - {_CONV_BIAS}):
        return f"it has decode_head.{extra[0]}, unlike HRNetV2"
    if missing := sorted(_SEGMENTATION_HEAD.keys() - shapes.keys()):
        return f"it lacks decode_head.{missing[0]}"
    for key in ("convs.0.conv.weight", "conv_seg.weight"):
        if len(shapes[key]) != 4 or shapes[key][2:] != (1, 1):
            return f"decode_head.{key} has shape {shapes[key]}, and HRNetV2's kernel is 1x1"
    channels_out, channels_in, *_ = shapes["convs.0.conv.weight"]
    if channels_out != channels_in:
        return (
            f"decode_head.convs.0.conv.weight maps {channels_in} channels to {channels_out}, and "
            "HRNetV2 keeps their number"
        )
    return ""
