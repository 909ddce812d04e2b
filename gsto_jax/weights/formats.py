"""Weight formats: names of the modules in other implementations, optional and ignored keys."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.types import LeafPath

# Indices in a `torch.nn.Sequential`.
_SEQUENTIAL_INDEX = {"conv": "0", "bn": "1", "classifier": "3"}
_HRNET = (
    (r"stem(\d)/0", r"conv\1"),
    (r"stem(\d)/1", r"bn\1"),
    (r"stage1_block(\d+)/downsample/([01])", r"layer1.\1.downsample.\2"),
    (r"stage1_block(\d+)/(\w+)", r"layer1.\1.\2"),
    (r"transition(\d)/keep(\d)/([01])", r"transition\1.\2.\3"),
    (r"transition(\d)/gtm/down/([01])", r"transition\1.\1.0.\2"),
    (r"transition(\d)/gtm/gate/cbr(\d)/([01])", r"att\1.\1.\2.\3"),
    (r"transition(\d)/gtm/head/([013])", r"last_layer_stage\1.\2"),
    (r"stage(\d)_module(\d+)/branch(\d)_block(\d+)/(\w+)", r"stage\1.\2.branches.\3.\4.\5"),
    (r"stage(\d)_module(\d+)/fusion/path(\d)_to(\d)/([01])", r"stage\1.\2.fuse_layers.\4.\3.\5"),
    (
        r"stage(\d)_module(\d+)/fusion/path(\d)_to(\d)/step(\d)/([01])",
        r"stage\1.\2.fuse_layers.\4.\3.\5.\6",
    ),
    (r"head", "final_layer"),
    (r"head/([013])", r"last_layer.\1"),
    (r"head/increase(\d)/downsample/([01])", r"incre_modules.\1.0.downsample.\2"),
    (r"head/increase(\d)/(\w+)", r"incre_modules.\1.0.\2"),
    (r"head/down(\d)/([01])", r"downsamp_modules.\1.\2"),
    (r"head/final/([01])", r"final_layer.\1"),
    (r"head/linear", "classifier"),
)
_OCR_BLOCK = "ocr_distri_head.object_context_block"
_OCR = (
    (r"head/([013])", r"aux_head.\1"),
    (r"ocr/pixel/([01])", r"conv3x3_ocr.\1"),
    *(
        (f"ocr/context/{name}/{slot}", f"{_OCR_BLOCK}.{key}.{index}")
        for name, key, indices in (
            ("query0", "f_pixel", ("0", "1.0")),
            ("query1", "f_pixel", ("2", "3.0")),
            ("key0", "f_object", ("0", "1.0")),
            ("key1", "f_object", ("2", "3.0")),
            ("value", "f_down", ("0", "1.0")),
            ("up", "f_up", ("0", "1.0")),
        )
        for slot, index in enumerate(indices)
    ),
    (r"ocr/fuse/0", "ocr_distri_head.conv_bn_dropout.0"),
    (r"ocr/fuse/1", "ocr_distri_head.conv_bn_dropout.1.0"),
    (r"ocr/3", "cls_head"),
    *_HRNET,
)
_TORCHVISION = (
    (r"(?:\w+/)?stem/0", "conv1"),
    (r"(?:\w+/)?stem/1", "bn1"),
    (r"(?:\w+/)?stage(\d)_block(\d+)/downsample/([01])", r"layer\1.\2.downsample.\3"),
    (r"(?:\w+/)?stage(\d)_block(\d+)/((?:conv|bn)\d)", r"layer\1.\2.\3"),
)
_FUSION_GATE = re.compile(r"stage(\d)_module(\d+)/fusion/gate(\d)/([01])")
_BN_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_CONV_LEAVES = {"kernel": "weight", "bias": "bias"}
LINEAR_KEYS = ("classifier.weight",)
"""Keys of the weights that other implementations store as `o i` of a linear layer."""


@dataclass(frozen=True)
class WeightFormat:
    """Names of a network's arrays in another implementation.

    Attributes:
      name: Name for messages.
      ignored: Patterns of the keys that are not loaded; any other unused key is an error.
      absolute_gamma: Whether BN scales are computed as `|weight| + 1e-5`.
      signature: Pattern of a key that only this format, or formats further up in `FORMATS`, have.
      prefix: Prefix of every key in the released files; optional on import.
      optional: Patterns of module paths that files may lack, by the name of their group.
      omits_optional: Whether exported files lack the optional modules.
      modules: Patterns of module paths and their names in this format.
      outputs: Channels of the head: "classes" or "joints".
    """

    name: str
    ignored: tuple[str, ...] = ()
    absolute_gamma: bool = False
    signature: str = ""
    prefix: str = ""
    optional: Mapping[str, str] = field(default_factory=dict)
    omits_optional: bool = False
    modules: tuple[tuple[str, str], ...] = _HRNET
    outputs: str = "classes"

    def keys(self, path: LeafPath, channels: int) -> list[str]:
        """Returns the keys of a leaf; none if the format has no counterpart.

        This package holds all gates of one source branch in one convolution and BN, GSTO-HRNet one
        each: such a leaf has several keys.

        Args:
          path: Path of the leaf below its collection, such as ("stem1", "conv", "kernel").
          channels: Length of its last axis.
        """
        *parents, module, leaf = path
        module_path = "/".join([*parents, _SEQUENTIAL_INDEX.get(module, module)])
        leaves = _BN_LEAVES if re.search(r"bn\d?$", module) else _CONV_LEAVES
        if gate := _FUSION_GATE.fullmatch(module_path):
            stage, index, source, slot = gate.groups()
            # Without the self gate, a source branch of stage s has s - 1 gates.
            has_self_gate = channels == int(stage)
            targets = [i for i in range(int(stage)) if has_self_gate or i != int(source)]
            prefix = f"stage{stage}.{index}.att_layers"
            return [f"{prefix}.{i}.{source}.{slot}.{leaves[leaf]}" for i in targets]
        for pattern, template in self.modules:
            if match := re.fullmatch(pattern, module_path):
                return [f"{match.expand(template)}.{leaves[leaf]}"]
        return []

    def ignores(self, key: str) -> bool:
        """Returns whether a key of a file need not be loaded."""
        return any(re.fullmatch(pattern, key) for pattern in self.ignored)

    def omits(self, path: LeafPath) -> bool:
        """Returns whether exported files lack a leaf."""
        return self.omits_optional and self.optional_group(path) is not None

    def optional_group(self, path: LeafPath) -> str | None:
        """Returns the optional group that a leaf belongs to; None if it is required."""
        module_path = "/".join(path[:-1])
        matches = (x for x, pattern in self.optional.items() if re.fullmatch(pattern, module_path))
        return next(matches, None)


# Of BN, and of averaged weights in PyTorch and mmengine.
_COUNTERS = r".*\.num_batches_tracked|n_averaged|steps"
_LOSS = r"loss\..*"  # saved when the model contains its loss
# Convolution to a new branch, replaced by the paper's variant of GTM.
_TRANSITION = r"transition(\d)\.\1\.0\.[01]\.\w+"
_EMA_BUFFERS = r"ema_\w+"  # averages of mmcv's EMAHook
# Pose networks fuse into branch 0 only at the end.
_OTHER_BRANCHES = r"stage4\.\d+\.fuse_layers\.[123]\..*"
_GATES = {
    "gates of GFM": r"stage\d_module\d+/fusion/gate\d/.*",
    "gates of GTM": r"transition\d/gtm/gate/.*",
    "heads of GTM": r"transition\d/gtm/head/.*",
    "GTM of the paper": r"transition\d/gtm/(gsto|down/step\d)/.*",
    "other gates": r"(.*/)?(\w+_)?attention\d?/.*",
}
_OCR_HEAD = {"OCR head": r"ocr/.*"}
_HEAD = {"head": r"head(/.*)?"} | _OCR_HEAD
_CLASSIFICATION_HEAD = {"head of HRNet-C": r"head/(increase\d|down\d|final|linear)(/.*)?"}
_CLASSIFIER = (r"(incre|downsamp)_modules\..*", r"final_layer\.[01]\..*", r"classifier\..*")
_SEGMENTATION_HEAD = r"last_layer\.[013]\.\w+"
_LAST_FUSION = {"last fusion": r"stage4_module\d+/fusion/path\d_to[123]/.*"}
_CLASS_AXES = {
    r"(.*/)?(classifier|predictor)/(kernel|bias)|head/(linear/)?(kernel|bias)": -1,
    r"transition\d/gtm/gate/cbr0/conv/kernel": 2,
}
_GATE = re.compile(r"((?:.*?/)?(?:gate\d*|gsto|(?:\w+_)?attention\d?))(?:/.*)?")

NETWORK_HEADS = {
    "head": r"head(/.*)?|classifier|auxiliary/.*",
    **_OCR_HEAD,
    "heads of GTM": _GATES["heads of GTM"],
    "predictor of the context module": r"context/gates/predictor",
}
"""Patterns of the module paths of heads, by the name of their group."""
NETWORK_PARTS = {
    **NETWORK_HEADS,
    **_GATES,
    **_LAST_FUSION,
    "convolutions of GTM": r"transition\d/gtm/down(/.*)?",
    "gates of the context module": r"context/gates/gate/.*",
    "context module": r"context/.*",
}
"""Patterns of the module paths of everything but the body, by the name of their group."""


def gate_of(module: str) -> str:
    """Returns the path of the gate that a module is or belongs to; "" for none."""
    match = _GATE.fullmatch(module)
    return match[1] if match else ""


def class_axis(path: str) -> int | None:
    """Returns the axis of a leaf, by its path, that is as long as there are classes or joints."""
    return next((axis for p, axis in _CLASS_AXES.items() if re.fullmatch(p, path)), None)


def class_count(leaves: Mapping[LeafPath, Any]) -> int:
    """Returns the number of classes or joints that a network predicts; 0 without a head."""
    heads = (("head", "classifier"), ("head", "linear"), ("head",), ("classifier",))
    biases = (leaves.get(("params", *head, "bias")) for head in heads)
    return next((bias.shape[0] for bias in biases if bias is not None), 0)


GSTO_FORMAT = WeightFormat(
    "GSTO-HRNet",
    # att1 gates no published network; networks of other tasks have another head.
    ignored=(_COUNTERS, _LOSS, r"att1\..*", *_CLASSIFIER, _SEGMENTATION_HEAD),
    absolute_gamma=True,
    signature=r"stage\d\.\d+\.att_layers\..*|att\d\..*|last_layer_stage\d\..*",
    prefix="model.",
    optional=_CLASSIFICATION_HEAD | _OCR_HEAD | {"other gates": _GATES["other gates"]},
)
GSTO_CLASSIFICATION_FORMAT = replace(
    GSTO_FORMAT,
    name="GSTO-HRNet-C",
    # Networks of other tasks have another head, and transitions with heads and other gates.
    ignored=(*GSTO_FORMAT.ignored, r"(att|last_layer_stage)\d\..*"),
    optional={
        **GSTO_FORMAT.optional,
        **_HEAD,
        **{name: _GATES[name] for name in ("gates of GTM", "heads of GTM")},
    },
)
POSE_FORMAT = WeightFormat(
    "HRNet pose",
    # GSTO pose networks have the head of segmentation networks.
    ignored=(_COUNTERS, _TRANSITION, _EMA_BUFFERS, r"final_layer\.(weight|bias)"),
    signature=r"final_layer\.weight",
    outputs="joints",
    optional=_HEAD | _LAST_FUSION | _GATES,
)
HRNET_FORMAT = WeightFormat(
    "HRNetV2 segmentation",
    # Pose networks have another head.
    ignored=(
        *(_COUNTERS, _LOSS, _TRANSITION, _EMA_BUFFERS, _OTHER_BRANCHES),
        _SEGMENTATION_HEAD,
    ),
    signature=r"last_layer\..*",
    optional={"head of HRNet pose": "head"} | _CLASSIFICATION_HEAD | _OCR_HEAD | _GATES,
)
OCR_FORMAT = WeightFormat(
    "HRNet-OCR segmentation",
    # Other networks have no OCR head.
    ignored=(
        *(_COUNTERS, _LOSS, _TRANSITION, _EMA_BUFFERS, _OTHER_BRANCHES),
        *(r"aux_head\.[013]\.\w+", r"conv3x3_ocr\.[01]\.\w+", r"cls_head\.\w+"),
        r"ocr_distri_head\.(object_context_block\.f_\w+|conv_bn_dropout)\.\d(\.0)?\.\w+",
    ),
    signature=r"(aux_head|conv3x3_ocr|ocr_distri_head|cls_head)\..*",
    prefix="model.",
    optional={"head of HRNet pose": "head"} | _CLASSIFICATION_HEAD | _GATES,
    modules=_OCR,
)
IMAGENET_FORMAT = WeightFormat(
    "HRNet ImageNet",
    ignored=(
        *(_COUNTERS, _TRANSITION, _OTHER_BRANCHES),
        # The classifier in the official code and in HRNet pose.
        *(*_CLASSIFIER, r"head\.\d\..*"),
    ),
    signature=r"(incre_modules|downsamp_modules|head\.\d)\..*",
    optional=_HEAD | _GATES,
)
BODY_FORMAT = WeightFormat(
    "HRNet without a head",
    ignored=(_COUNTERS, _TRANSITION, _OTHER_BRANCHES, _EMA_BUFFERS, _LOSS),
    signature=r"stage4\..*",
    optional=_HEAD | _LAST_FUSION | _GATES,
)
RESNET_FORMAT = WeightFormat(
    "torchvision ResNet",
    ignored=(_COUNTERS, r"fc\..*"),
    signature=r"layer4\..*",
    optional={"all but the encoder": r"(?!(\w+/)?(stem|stage\d_block\d+)/).*"},
    omits_optional=True,
    modules=_TORCHVISION,
)
FORMATS = (
    *(GSTO_FORMAT, POSE_FORMAT, HRNET_FORMAT, OCR_FORMAT, IMAGENET_FORMAT, BODY_FORMAT),
    RESNET_FORMAT,
)
"""Formats in the order in which `detect_format` tries them."""


def detect_format(keys: Iterable[str]) -> WeightFormat:
    """Returns the format of a state dict by its keys, given without prefixes.

    Raises:
      UserError: No format matches.
    """
    keys = list(keys)
    for weight_format in FORMATS:
        if any(re.fullmatch(weight_format.signature, key) for key in keys):
            is_classification = weight_format is GSTO_FORMAT and "classifier.weight" in keys
            return GSTO_CLASSIFICATION_FORMAT if is_classification else weight_format
    listed = ", ".join(sorted(keys)[:5]) or "none"
    names = ", ".join(x.name for x in FORMATS)
    raise UserError(f"its keys ({listed} ...) must be of one of the formats {names}")


def export_format(config: ModelConfig) -> WeightFormat:
    """Returns the format in which networks of a config are exported.

    Raises:
      UserError: There is none.
    """
    if config.hrnet.attention != "none":
        raise UserError(
            "model.hrnet.attention must be none to export weights: no other implementation has "
            "names for these gates. Export the format jax instead"
        )
    if config.is_context_net:
        return RESNET_FORMAT
    if other := _other_gates(config):
        raise UserError(
            f"{other} must be released or open to export weights: the other implementation of "
            "GSTO-HRNet has no such gates. Export the format jax instead"
        )
    if config.has_gates or set(config.gates) != {"none"}:
        if config.hrnet.head == "ocr":
            raise UserError(
                "model.hrnet.head must be v2 to export weights of a network with gates or heads of "
                "GTM; got ocr, for which no other implementation has names. Export the format jax "
                "instead"
            )
        return GSTO_CLASSIFICATION_FORMAT if config.hrnet.head == "cls" else GSTO_FORMAT
    if config.hrnet.head == "ocr":
        return OCR_FORMAT
    if config.hrnet.head == "cls":
        return IMAGENET_FORMAT
    return POSE_FORMAT if config.hrnet.head == "v1" else HRNET_FORMAT


def _other_gates(config: ModelConfig) -> str:
    """Returns the option of gates that the released code cannot compute; "" if there are none."""
    hrnet, styles = config.hrnet, ("doubled", "residual")
    if hrnet.gfm and hrnet.gfm_style in styles:
        return "model.hrnet.gfm_style"
    gated = not {"supervised", "unsupervised"}.isdisjoint(hrnet.gtm)
    return "model.hrnet.gtm_style" if gated and hrnet.gtm_style in styles else ""


def option_notes(weight_format: WeightFormat | None, config: ModelConfig) -> list[str]:
    """Returns notes on imported weights that were trained with other options of the network."""
    notes = [_upsampling_note(weight_format, config)]
    formats = (GSTO_FORMAT, GSTO_CLASSIFICATION_FORMAT)
    if weight_format in formats and (other := _other_gates(config)):
        name = other.rpartition(".")[2]
        notes.append(
            f"note: the gates of {GSTO_FORMAT.name} files are of the style 'released', and "
            f"config.{other} is {getattr(config.hrnet, name)!r} here, which computes other gates"
        )
    return [note for note in notes if note]


def _upsampling_note(weight_format: WeightFormat | None, config: ModelConfig) -> str | None:
    if weight_format is OCR_FORMAT and not config.align_corners:
        return (
            "note: published HRNet-OCR networks were trained with align_corners, and "
            "config.model.align_corners is False here"
        )
    names = {IMAGENET_FORMAT.name: "ImageNet", POSE_FORMAT.name: "HRNet pose"}
    if weight_format is None or weight_format.name not in names:
        return None
    if config.hrnet.upsample == "nearest":
        return None
    return (
        f"note: {names[weight_format.name]} networks were trained with nearest upsampling in their "
        f"fusions, and config.model.hrnet.upsample is {config.hrnet.upsample!r} here, as in "
        "segmentation networks"
    )
