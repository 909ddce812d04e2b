"""Kinds of state files: what they call our modules, what they lack and what of them is unused."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError

Path = tuple[str, ...]

# In a sequence of modules a convolution has index 0, BN 1 and a classifier 3.
_SLOTS = {"conv": "0", "bn": "1", "classifier": "3"}
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


@dataclass(frozen=True)
class Format:
    """A kind of state file.

    Attributes:
      name: for messages.
      ignored: patterns of the keys that carry nothing for us; any other key must find its place.
      absolute_gamma: the reference uses `|weight| + 1e-5` as BN scale; import applies that rule.
      sign: pattern of a key that tells files of this kind from those further down in `FORMATS`.
      prefix: stands before every key in the files that were released; files without it will do.
      fresh: patterns of the modules of ours that files may lack, by what people call them.
      partial: files that are written lack those too.
      modules: patterns of our modules, and what the files call them.
    """

    name: str
    ignored: tuple[str, ...] = ()
    absolute_gamma: bool = False
    sign: str = ""
    prefix: str = ""
    fresh: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False
    modules: tuple[tuple[str, str], ...] = _HRNET

    def keys(self, path: Path, size: int) -> list[str]:
        """Returns the keys that one of our leaves holds; none where the files have nothing like it.

        GSTO-HRNet has a convolution and BN for each gate, ours hold all gates of one source side by
        side: so such a leaf has several keys.

        Args:
          path: our leaf below its collection, for instance ("stem1", "conv", "kernel").
          size: length of the leaf's last axis.
        """
        *parents, module, leaf = path
        place = "/".join([*parents, _SLOTS.get(module, module)])
        leaves = _BN_LEAVES if re.search(r"bn\d?$", module) else _CONV_LEAVES
        if gate := _FUSION_GATE.fullmatch(place):
            stage, index, source, slot = gate.groups()
            # Without the self gate a source of a stage with s branches has s - 1 gates.
            targets = [i for i in range(int(stage)) if size == int(stage) or i != int(source)]
            start = f"stage{stage}.{index}.att_layers"
            return [f"{start}.{i}.{source}.{slot}.{leaves[leaf]}" for i in targets]
        for pattern, template in self.modules:
            if match := re.fullmatch(pattern, place):
                return [f"{match.expand(template)}.{leaves[leaf]}"]
        return []

    def ignores(self, key: str) -> bool:
        """Returns whether the format declares this key as one to leave out."""
        return any(re.fullmatch(pattern, key) for pattern in self.ignored)

    def leaves_out(self, path: Path) -> bool:
        """Returns whether files that are written lack a leaf of ours."""
        return self.partial and self.fresh_part(path) is not None

    def fresh_part(self, path: Path) -> str | None:
        """Returns what people call the part that a leaf of ours is in, if files may lack it."""
        place = "/".join(path[:-1])
        return next((name for name, p in self.fresh.items() if re.fullmatch(p, place)), None)


# BN's, and those of averaged weights in PyTorch and mmengine.
_COUNTERS = r".*\.num_batches_tracked|n_averaged|steps"
_LOSS = r"loss\..*"  # what a network was saved with that holds its loss
# The step to a new branch, where the paper's form of GTM takes its place.
_TRANSITION = r"transition(\d)\.\1\.0\.[01]\.\w+"
_EMA_BUFFERS = r"ema_\w+"  # mmcv's hook keeps averages so, beside the network that they are of
# Of the last fusion, a network for pose takes branch 0 alone.
_OTHER_BRANCHES = r"stage4\.\d+\.fuse_layers\.[123]\..*"
_GATES = {
    "gates of GFM": r"stage\d_module\d+/fusion/gate\d/.*",
    "gates of GTM": r"transition\d/gtm/gate/.*",
    "heads of GTM": r"transition\d/gtm/head/.*",
    "GTM in the paper's form": r"transition\d/gtm/(gsto|down/step\d)/.*",
    "other gates": r"(.*/)?(\w+_)?attention\d?/.*",
}
_HEAD = {"head": r"head(/.*)?"}
_LAST_FUSION = {"last fusion": r"stage4_module\d+/fusion/path\d_to[123]/.*"}

GSTO_FORMAT = Format(
    "GSTO-HRNet",
    # att1 gates nothing that was published.
    ignored=(_COUNTERS, _LOSS, r"att1\..*"),
    absolute_gamma=True,
    sign=r"stage\d\.\d+\.att_layers\..*|att\d\..*|last_layer_stage\d\..*",
    prefix="model.",
    fresh={"other gates": _GATES["other gates"]},
)
POSE_FORMAT = Format(
    "HRNet pose",
    # A GSTO network for pose has the head of segmentation.
    ignored=(_COUNTERS, _TRANSITION, _EMA_BUFFERS, r"final_layer\.(weight|bias)"),
    sign=r"final_layer\.weight",
    fresh=_HEAD | _LAST_FUSION | _GATES,
)
HRNET_FORMAT = Format(
    "HRNetV2 segmentation",
    ignored=(_COUNTERS, _LOSS, _TRANSITION, _EMA_BUFFERS),
    sign=r"last_layer\..*",
    fresh=_GATES,
)
IMAGENET_FORMAT = Format(
    "HRNet ImageNet",
    ignored=(
        *(_COUNTERS, _TRANSITION, _OTHER_BRANCHES),
        # The classifier, in the official code and in the files of HRNet pose.
        *(r"incre_modules\..*", r"downsamp_modules\..*", r"final_layer\.[01]\..*"),
        *(r"classifier\..*", r"head\.\d\..*"),
    ),
    sign=r"(incre_modules|downsamp_modules|head\.\d)\..*",
    fresh=_HEAD | _GATES,
)
BODY_FORMAT = Format(
    "HRNet without a head",
    ignored=(_COUNTERS, _TRANSITION, _OTHER_BRANCHES, _EMA_BUFFERS, _LOSS),
    sign=r"stage4\..*",
    fresh=_HEAD | _LAST_FUSION | _GATES,
)
RESNET_FORMAT = Format(
    "torchvision ResNet",
    ignored=(_COUNTERS, r"fc\..*"),
    sign=r"layer4\..*",
    fresh={"all but the encoder": r"(?!(\w+/)?(stem|stage\d_block\d+)/).*"},
    partial=True,
    modules=_TORCHVISION,
)
FORMATS = (GSTO_FORMAT, POSE_FORMAT, HRNET_FORMAT, IMAGENET_FORMAT, BODY_FORMAT, RESNET_FORMAT)
"""The kinds of files that can be told by their keys, in the order in which they are tried."""


def format_of(keys: Iterable[str]) -> Format:
    """Returns the kind of a network's state by its keys, without prefixes.

    Raises:
      UserError: the kind is unknown.
    """
    keys = list(keys)
    for form in FORMATS:
        if any(re.fullmatch(form.sign, key) for key in keys):
            return form
    listed = ", ".join(sorted(keys)[:5]) or "none"
    names = ", ".join(form.name for form in FORMATS)
    raise UserError(f"its keys ({listed} ...) are of no network that is known: use one of {names}")


def format_for(config: ModelConfig) -> Format:
    """Returns the format of the networks that a config describes, or that begin with one.

    Raises:
      UserError: there is none.
    """
    if config.hrnet.attention != "none":
        raise UserError(
            "no other implementation has names for the gates of Table 3, so their weights cannot "
            "be exported: export the format jax"
        )
    if config.is_context_net:
        return RESNET_FORMAT
    if config.has_gates or set(config.gates) != {"none"}:
        return GSTO_FORMAT
    return POSE_FORMAT if config.hrnet.head == "v1" else HRNET_FORMAT


def upsampling_note(form: Format, config: ModelConfig) -> str | None:
    """Returns a note for a network that goes on from weights trained with another upsampling."""
    kinds = {IMAGENET_FORMAT.name: "ImageNet", POSE_FORMAT.name: "HRNet's pose"}
    if form.name not in kinds or config.hrnet.upsample == "nearest":
        return None
    return (
        f"note: {kinds[form.name]} networks were trained with nearest upsampling in their fusions, "
        f"and config.model.hrnet.upsample is {config.hrnet.upsample!r} here, as it is in "
        "segmentation networks"
    )
