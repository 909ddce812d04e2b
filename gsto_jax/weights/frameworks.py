"""Heads of mmpose and mmsegmentation under the official code's names, where they are the same."""

import re
from collections.abc import Mapping, Set

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

Head = tuple[dict[str, str], dict[str, np.ndarray], tuple[str, ...]]


def official_heads(arrays: Mapping[str, np.ndarray], expected: Set[str]) -> Head:
    """Names the head of a model of mmpose or mmsegmentation as the official code does.

    Args:
      arrays: of the model, "backbone." and heads.
      expected: keys of the network to fill.

    Returns:
      Official names by the model's; arrays that the model lacks and the official code has; and
      what was done, in words. All empty where the head is another than HRNet's.
    """
    # The model's keys by what they are without DDP's segments, wherever those stand.
    keys = {
        re.sub(r"(?<![^.])module\.", "", key): key
        for key in arrays
        if not key.startswith("backbone.") and not key.endswith(".num_batches_tracked")
    }
    pose = [key for key in keys if re.match(r"(keypoint_)?head\.", key)]
    final = re.compile(r"(?:keypoint_)?head\.final_layer\.(weight|bias)")
    if any(map(final.fullmatch, pose)):
        if others := [key for key in pose if not final.match(key)]:
            return _left_out("mmpose", f"it has {others[0]}, which HRNet's has not")
        names = {keys[key]: f"final_layer.{m[1]}" for key in pose if (m := final.fullmatch(key))}
        return names, {}, (f"{pose[0].rpartition('.')[0]} is read as final_layer",)
    start = "decode_head."
    head = {key.removeprefix(start): keys[key] for key in keys if key.startswith(start)}
    return _segmentation_head(head, arrays, expected) if head else ({}, {}, ())


def _segmentation_head(
    head: Mapping[str, str], arrays: Mapping[str, np.ndarray], expected: Set[str]
) -> Head:
    problem = _difference({key: arrays[name].shape for key, name in head.items()})
    if not problem and "last_layer.0.weight" not in expected:
        problem = "this network has another"
    if problem:
        return _left_out("mmsegmentation", problem)
    names = {head[key]: official for key, official in _SEGMENTATION_HEAD.items()}
    note = "decode_head is read as last_layer"
    if _CONV_BIAS in head:
        return names | {head[_CONV_BIAS]: "last_layer.0.bias"}, {}, (note,)
    weight = arrays[head["convs.0.conv.weight"]]
    zeros = {"last_layer.0.bias": np.zeros(weight.shape[0], weight.dtype)}
    reason = "last_layer.0.bias is zeros, since mmsegmentation's convolution has none"
    return names, zeros, (note, reason)


def _left_out(framework: str, reason: str) -> Head:
    return {}, {}, (f"head of {framework} left out: {reason}",)


def _difference(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Returns what tells a head of mmsegmentation from HRNetV2's, "" where nothing does."""
    if extra := sorted(shapes.keys() - _SEGMENTATION_HEAD.keys() - {_CONV_BIAS}):
        return f"it has decode_head.{extra[0]}, which HRNetV2's has not"
    if missing := sorted(_SEGMENTATION_HEAD.keys() - shapes.keys()):
        return f"it lacks decode_head.{missing[0]}"
    for key in ("convs.0.conv.weight", "conv_seg.weight"):
        if len(shapes[key]) != 4 or shapes[key][2:] != (1, 1):
            return f"decode_head.{key} has shape {shapes[key]}, and HRNetV2's is of size 1x1"
    out, into, *_ = shapes["convs.0.conv.weight"]
    if out != into:
        return f"decode_head.convs.0.conv.weight maps {into} channels to {out}; HRNetV2 keeps them"
    return ""
