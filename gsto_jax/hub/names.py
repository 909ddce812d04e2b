"""Names of the networks: family and backbone, or encoder and context module."""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from gsto_jax.config import MODEL, ModelConfig, option_role
from gsto_jax.errors import UserError
from gsto_jax.layers.context import CONTEXT_MODULES
from gsto_jax.models.paper_tables import ROWS
from gsto_jax.models.specs import PLAIN, RESNETS, VARIANTS, GSTOSpec

Options = dict[str, Any]

_PLAIN, _GATED = dataclasses.asdict(PLAIN), dataclasses.asdict(GSTOSpec())
_HRNETS: Mapping[str, Options] = {
    "hrnetv2": _PLAIN,
    "gsto_hrnet": _GATED,
    "hrnetv2_ocr": _PLAIN | {"head": "ocr"},
    "gsto_hrnet_ocr": _GATED | {"head": "ocr"},
    "hrnet_pose": _PLAIN | {"head": "v1", "upsample": "nearest"},
    "gsto_hrnet_pose": _GATED,
    "hrnet_cls": _PLAIN | {"head": "cls", "upsample": "nearest"},
    # Gates that read the scores of a thousand classes would not fit other datasets.
    "gsto_hrnet_cls": _GATED | {"head": "cls", "gtm": ("none", "unsupervised", "unsupervised")},
}
"""Options of HRNet by family."""
_CONTEXT_NETS: Mapping[str, Options] = {"": {"gating": "none"}, "gsto_": {"gating": "supervised"}}
"""Options of the context module by prefix of the name."""
IMAGENET_CLASSES = 1000
_NOT_KEYWORDS = {"variant", "module", "freeze", "freeze_bn"}
"""Options that the name says, or that only training reads."""


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of the networks that match a pattern, such as "gsto*" (fnmatch)."""
    return fnmatch.filter(_networks(), pattern)


@cache
def _networks() -> dict[str, Options]:
    """Returns the fields of `ModelConfig` that each name sets."""
    hrnets = {
        f"{family}_{variant}": {"variant": variant, "hrnet": options}
        for family, options in _HRNETS.items()
        for variant in VARIANTS
    }
    context_nets = {
        f"{prefix}{variant}_{module}": {
            "variant": variant,
            "context_net": {"module": module} | options,
        }
        for prefix, options in _CONTEXT_NETS.items()
        for variant in RESNETS
        for module in CONTEXT_MODULES
    }
    return hrnets | context_nets


def task_of(name: str) -> str:
    """Returns the task of a network by its name."""
    if "_cls_" in name:
        return "classification"
    return "pose" if "_pose_" in name else "segmentation"


def default_outputs(name: str) -> int:
    """Returns the number of classes or joints in the paper, 19 or 17; 1000 of ImageNet."""
    task = task_of(name)
    if task == "classification":
        return IMAGENET_CLASSES
    return next(row.num_outputs for row in ROWS if row.is_pose == (task == "pose"))


def model_config(name: str, options: Mapping[str, Any]) -> ModelConfig:
    """Returns the config of a network.

    Args:
      name: name of the network, one of `list_models()`.
      options: config options of the network that differ, by the last part of their names.

    Raises:
      UserError: the name or an option is unknown, or a value is invalid.
    """
    networks = _networks()
    if name not in networks:
        raise UserError(
            f"name must be one of list_models(); got {name!r}{_nearest(name, networks)}"
        )
    fields = dict(networks[name])
    section = "hrnet" if "hrnet" in fields else "context_net"
    inner, outer = _keywords(section)
    for keyword in options:
        if keyword not in inner | outer:
            raise UserError(
                f"{keyword} is not a keyword of {name}{_nearest(keyword, inner | outer)}"
            )
    fields |= {keyword: options[keyword] for keyword in options if keyword in outer}
    changes = {keyword: options[keyword] for keyword in options if keyword in inner}
    try:
        return ModelConfig(**fields | {section: fields[section] | changes})
    except UserError as error:
        message = re.sub(r"config\.model\.(hrnet\.|context_net\.)?", "", str(error))
        raise UserError(message) from None


def _keywords(section: str) -> tuple[set[str], set[str]]:
    """Returns the keywords of "hrnet" or "context_net", and those of all networks."""
    fields = {field.name: field for field in dataclasses.fields(ModelConfig)}
    inner = {field.name for field in dataclasses.fields(fields[section].metadata["section"])}
    outer = {name for name, field in fields.items() if "section" not in field.metadata}
    return inner - _NOT_KEYWORDS, outer - _NOT_KEYWORDS


def _nearest(word: str, words: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.0)
    return f". Did you mean {nearest[0]!r}?" if nearest else ""


def differences(config: ModelConfig, other: ModelConfig) -> Options:
    """Returns the options of a config that differ and change what its network computes.

    Args:
      config: config of a network.
      other: config of another one, of the same backbone.

    Returns:
      Values in `config` by keyword of `create_model`.
    """
    section = "context_net" if config.is_context_net else "hrnet"
    inner, outer = _keywords(section)
    names = [f"{section}.{name}" for name in sorted(inner)] + sorted(outer)
    changes = {}
    for name in names:
        if option_role(f"model.{name}") != MODEL and name != "dtype":
            continue
        *sections, keyword = name.split(".")
        parts = [getattr(x, section) if sections else x for x in (config, other)]
        value, default = (getattr(part, keyword) for part in parts)
        if value != default:
            changes[keyword] = value
    return changes


def find_name(config: ModelConfig, task: str) -> tuple[str, Options]:
    """Returns the name that is nearest to a config, and the options that differ from it.

    Args:
      config: config of the network.
      task: task of the network, such as "pose".
    """
    # The name of a gated network says so, however many options differ.
    choices = [
        (task_of(name) != task, named.has_gates != config.has_gates, len(changes), name, changes)
        for name, fields in _networks().items()
        if fields["variant"] == config.variant
        and ("hrnet" in fields or fields["context_net"]["module"] == config.context_net.module)
        for named in [model_config(name, {})]
        for changes in [differences(config, named)]
    ]
    *_, name, changes = min(choices, key=lambda choice: choice[:3])
    return name, changes
