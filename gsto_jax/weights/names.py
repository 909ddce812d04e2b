"""What other implementations call our modules and their arrays."""

import re

from gsto_jax.errors import UserError

Path = tuple[str, ...]

_HRNET = (
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
_TORCHVISION = (
    (r"(?:\w+/)?stem/(conv|bn)", r"\g<1>1"),
    (r"(?:\w+/)?stage(\d)_block(\d+)/downsample/conv", r"layer\1.\2.downsample.0"),
    (r"(?:\w+/)?stage(\d)_block(\d+)/downsample/bn", r"layer\1.\2.downsample.1"),
    (r"(?:\w+/)?stage(\d)_block(\d+)/((?:conv|bn)\d)", r"layer\1.\2.\3"),
)
_FUSION_GATE = re.compile(r"stage(\d)_module(\d+)/fusion/gate(\d)/(conv|bn)")
_BN_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_CONV_LEAVES = {"kernel": "weight", "bias": "bias"}


def hrnet_keys(path: Path, size: int) -> list[str]:
    """The keys of HRNet, HRNetV2 and GSTO-HRNet that one of our leaves holds.

    They keep a convolution and BN for each gate, ours hold all gates of one source side by side: so
    such a leaf has several keys.

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
    return [_key(_HRNET, path, "the reference networks have")]


def torchvision_keys(path: Path, size: int) -> list[str]:
    """The key of torchvision's ResNet that a leaf of our encoder holds.

    Args:
      path: such as ("stage3_block0", "downsample", "conv", "kernel"), in a module or not.
      size: length of the leaf's last axis; it does not matter here.

    Raises:
      UserError: torchvision's ResNet has no such thing.
    """
    return [_key(_TORCHVISION, path, "torchvision's ResNet has")]


def _key(modules: tuple[tuple[str, str], ...], path: Path, whose: str) -> str:
    *module, leaf = path
    place = "/".join(module)
    for pattern, template in modules:
        if match := re.fullmatch(pattern, place):
            is_bn = re.search(r"bn\d?$", module[-1]) is not None
            return f"{match.expand(template)}.{(_BN_LEAVES if is_bn else _CONV_LEAVES)[leaf]}"
    raise UserError(f"{whose} no counterpart of our '{place}'")
