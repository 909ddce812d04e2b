"""The reference networks' state names, mapped to ours and back.

The reference keeps convolution kernels as `o i h w`, ours are `h w i o`; and it keeps one
convolution and BN for each gate, where ours holds all gates of one source side by side.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.errors import UserError

Path = tuple[str, ...]
Variables = Mapping[str, Any]  # {"params": tree, "batch_stats": tree}


@dataclass(frozen=True)
class Format:
    """A kind of state file.

    Attributes:
      name: for messages.
      ignored: patterns of the keys that carry nothing for us; any other key must find its place.
      absolute_gamma: the reference uses `|weight| + 1e-5` as BN scale; import applies that rule.
    """

    name: str
    ignored: tuple[str, ...] = ()
    absolute_gamma: bool = False

    def ignores(self, key: str) -> bool:
        """Whether the format declares this key as one to leave out."""
        return any(re.fullmatch(pattern, key) for pattern in self.ignored)


HRNET_FORMAT = Format("HRNetV2 segmentation", ignored=(r".*\.num_batches_tracked",))
POSE_FORMAT = Format("HRNet pose", ignored=(r".*\.num_batches_tracked",))
GSTO_FORMAT = Format(
    "GSTO-HRNet segmentation",
    ignored=(r"att1\..*", r".*\.num_batches_tracked"),
    absolute_gamma=True,
)

_MODULES = (
    (r"stem(\d)/conv", r"conv\1"),
    (r"stem(\d)/bn", r"bn\1"),
    (r"stage1_block(\d+)/downsample/conv", r"layer1.\1.downsample.0"),
    (r"stage1_block(\d+)/downsample/bn", r"layer1.\1.downsample.1"),
    (r"stage1_block(\d+)/(\w+)", r"layer1.\1.\2"),
    (r"transition(\d)/keep(\d)/conv", r"transition\1.\2.0"),
    (r"transition(\d)/keep(\d)/bn", r"transition\1.\2.1"),
    (r"transition(\d)/gtm/down/conv", r"transition\1.\1.0.0"),
    (r"transition(\d)/gtm/down/bn", r"transition\1.\1.0.1"),
    (r"transition(\d)/gtm/gate/cbr(\d)/conv", r"att\1.\1.\2.0"),
    (r"transition(\d)/gtm/gate/cbr(\d)/bn", r"att\1.\1.\2.1"),
    (r"transition(\d)/gtm/head/conv", r"last_layer_stage\1.0"),
    (r"transition(\d)/gtm/head/bn", r"last_layer_stage\1.1"),
    (r"transition(\d)/gtm/head/classifier", r"last_layer_stage\1.3"),
    (r"stage(\d)_module(\d+)/branch(\d)_block(\d+)/(\w+)", r"stage\1.\2.branches.\3.\4.\5"),
    (r"stage(\d)_module(\d+)/fusion/path(\d)_to(\d)/conv", r"stage\1.\2.fuse_layers.\4.\3.0"),
    (r"stage(\d)_module(\d+)/fusion/path(\d)_to(\d)/bn", r"stage\1.\2.fuse_layers.\4.\3.1"),
    (
        r"stage(\d)_module(\d+)/fusion/path(\d)_to(\d)/step(\d)/conv",
        r"stage\1.\2.fuse_layers.\4.\3.\5.0",
    ),
    (
        r"stage(\d)_module(\d+)/fusion/path(\d)_to(\d)/step(\d)/bn",
        r"stage\1.\2.fuse_layers.\4.\3.\5.1",
    ),
    (r"head", "final_layer"),
    (r"head/conv", "last_layer.0"),
    (r"head/bn", "last_layer.1"),
    (r"head/classifier", "last_layer.3"),
)
_FUSION_GATE = re.compile(r"stage(\d)_module(\d+)/fusion/gate(\d)/(conv|bn)")
_BN_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_CONV_LEAVES = {"kernel": "weight", "bias": "bias"}


def reference_keys(path: Path, size: int) -> list[str]:
    """The reference's keys that one of our leaves holds, one for each gate if it holds several.

    Args:
      path: our leaf below its collection, for instance ("stem1", "conv", "kernel").
      size: length of the leaf's last axis.

    Raises:
      UserError: the reference has no such thing (the paper-form GTM, for one).
    """
    *module, leaf = path
    place = "/".join(module)
    if match := _FUSION_GATE.fullmatch(place):
        stage, index, source, kind = match.groups()
        # Without the self gate a source of a stage with s branches has s - 1 gates.
        targets = [i for i in range(int(stage)) if size == int(stage) or i != int(source)]
        leaf = (_CONV_LEAVES if kind == "conv" else _BN_LEAVES)[leaf]
        slot = 0 if kind == "conv" else 1
        return [f"stage{stage}.{index}.att_layers.{i}.{source}.{slot}.{leaf}" for i in targets]
    for pattern, template in _MODULES:
        if match := re.fullmatch(pattern, place):
            is_bn = re.search(r"bn\d?$", module[-1]) is not None
            return [f"{match.expand(template)}.{(_BN_LEAVES if is_bn else _CONV_LEAVES)[leaf]}"]
    raise UserError(f"the reference networks have no counterpart of our '{place}'")


def from_reference(
    state: Mapping[str, np.ndarray], variables: Variables, form: Format
) -> dict[str, Any]:
    """Fills our variables from a reference state.

    Args:
      state: arrays by the reference's keys.
      variables: our variables or their shapes (from `jax.eval_shape`), for structure and dtype.
      form: which kind of state it is.

    Returns:
      New variables, NumPy arrays in the dtypes of `variables`.

    Raises:
      UserError: naming the keys that are missing, unused, or of another shape.
    """
    used: set[str] = set()
    problems: list[str] = []
    filled: dict[Path, np.ndarray] = {}
    for path, leaf, keys in _leaves(variables):
        used.update(keys)
        missing = [key for key in keys if key not in state]
        if missing:
            problems += [f"missing {key} (our {'/'.join(path)})" for key in missing]
            continue
        arrays = [_to_ours(np.asarray(state[key])) for key in keys]
        value = np.concatenate(arrays, axis=-1)
        if value.shape != leaf.shape:
            problems.append(f"{keys[0]} has shape {value.shape}, our {'/'.join(path)} {leaf.shape}")
            continue
        if form.absolute_gamma and path[-1] == "scale":
            value = np.abs(value) + 1e-5
        filled[path] = value.astype(leaf.dtype)
    unused = [key for key in state if key not in used and not form.ignores(key)]
    problems += [f"unused {key}" for key in unused]
    if problems:
        shown = sorted(problems)[:20]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise UserError(f"this is not a {form.name} state of this network: {'; '.join(shown)}")
    return unflatten_dict(filled)


def to_reference(variables: Variables) -> dict[str, np.ndarray]:
    """Our variables, or a tree like them such as gradients, under the reference's keys."""
    state: dict[str, np.ndarray] = {}
    for _, leaf, keys in _leaves(variables):
        for key, part in zip(keys, np.split(np.asarray(leaf), len(keys), axis=-1), strict=True):
            state[key] = part.transpose(3, 2, 0, 1) if part.ndim == 4 else part
    return state


def _leaves(variables: Variables) -> Iterator[tuple[Path, Any, list[str]]]:
    for path, leaf in flatten_dict(dict(variables)).items():
        yield path, leaf, reference_keys(path[1:], leaf.shape[-1])


def _to_ours(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
