"""The kinds of state files: how they are told apart, what they lack, what of them is left out."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gsto_jax.errors import UserError
from gsto_jax.weights.names import Path, hrnet_keys, torchvision_keys


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
      keys: the keys that a leaf of ours holds, by its path below the collection and the length of
        its last axis.
    """

    name: str
    ignored: tuple[str, ...] = ()
    absolute_gamma: bool = False
    sign: str = ""
    prefix: str = ""
    fresh: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False
    keys: Callable[[Path, int], list[str]] = hrnet_keys

    def ignores(self, key: str) -> bool:
        """Whether the format declares this key as one to leave out."""
        return any(re.fullmatch(pattern, key) for pattern in self.ignored)

    def leaves_out(self, path: Path) -> bool:
        """Whether files that are written lack a leaf of ours."""
        return self.partial and self.fresh_part(path) is not None

    def fresh_part(self, path: Path) -> str | None:
        """What people call the part that a leaf of ours belongs to, if files may lack it."""
        place = "/".join(path[:-1])
        parts = (name for name, pattern in self.fresh.items() if re.fullmatch(pattern, place))
        return next(parts, None)


# BN's, and those of averaged weights in PyTorch and mmengine.
_COUNTERS = r".*\.num_batches_tracked|n_averaged|steps"
_LOSS = r"loss\..*"  # what a network was saved with that holds its loss
# The step to a new branch, where the paper's form of GTM takes its place.
_TRANSITION = r"transition(\d)\.\1\.0\.[01]\.\w+"
_GATES = {
    "gates of GFM": r"stage\d_module\d+/fusion/gate\d/.*",
    "gates of GTM": r"transition\d/gtm/gate/.*",
    "heads of GTM": r"transition\d/gtm/head/.*",
    "GTM in the paper's form": r"transition\d/gtm/(gsto|down/step\d)/.*",
    "other gates": r"(.*/)?(\w+_)?attention\d?/.*",
}
_HEAD = {"head": r"head(/.*)?"}
# HRNet for pose makes branch 0 alone in its last fusion.
_LAST_FUSION = {"last fusion": r"stage4_module\d+/fusion/path\d_to[123]/.*"}
_EMA_BUFFERS = r"ema_\w+"  # mmcv's hook keeps averages so, beside the network that they are of

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
# Of the last fusion, a network for pose takes branch 0 alone.
_OTHER_BRANCHES = r"stage4\.\d+\.fuse_layers\.[123]\..*"
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
    keys=torchvision_keys,
)
FORMATS = (GSTO_FORMAT, POSE_FORMAT, HRNET_FORMAT, IMAGENET_FORMAT, BODY_FORMAT, RESNET_FORMAT)
"""The kinds of files that can be told by their keys, in the order in which they are tried."""


def format_of(keys: Iterable[str]) -> Format:
    """The kind of a network's state by its keys. Raises UserError where it is none that is known.

    Args:
      keys: without prefixes.
    """
    keys = list(keys)
    for form in FORMATS:
        if any(re.fullmatch(form.sign, key) for key in keys):
            return form
    listed = ", ".join(sorted(keys)[:5]) or "none"
    names = ", ".join(form.name for form in FORMATS)
    raise UserError(f"its keys ({listed} ...) are of no network that is known: use one of {names}")
