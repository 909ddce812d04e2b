"""Creates networks by name, or as a folder of weights describes them."""

import warnings
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.hub.names import default_outputs, model_config
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.features import HRNetFeatures, ResNetFeatures, feature_extractor
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.initialize import initial_variables, variable_paths
from gsto_jax.training.network import build_network

if TYPE_CHECKING:
    from gsto_jax.hub.folder import StoredNetwork
    from gsto_jax.hub.sources import LoadedWeights

Model = HRNet | ContextNet | HRNetFeatures | ResNetFeatures


def create_model(
    name: str = "",
    num_classes: int | None = None,
    *,
    weights: str | Path = "",
    features_only: bool = False,
    channels: int | None = None,
    seed: int = 0,
    prefix: str = "auto",
    platform: str = "",
    **options: Any,
) -> tuple[Model, dict[str, Any]]:
    """Creates a network and its variables.

    Where weights fit in part, as for another number of classes, the rules are those of
    `config.init_from` (docs/weights.md), and a warning lists the arrays that start fresh.

    Args:
      name: name of the network, one of `list_models()`; "" for that of `weights`, which must then
        be a run, a checkpoint or a hub folder.
      num_classes: classes or joints; by default those of `weights`, or else those of the paper: 19
        classes, 17 joints. Supervised gates read class scores, so it matters for features too.
      weights: a run, its best/, a checkpoint, a hub folder (docs/models.md), or a `.safetensors` or
        `.pth` file; "" for initial values.
      features_only: whether to return a network of feature maps, which `feature_info` describes.
      channels: channels of the image; by default those of `weights`, or 3.
      seed: seed of the initial values.
      prefix: prefix of the keys in a weight file, to choose among several networks in it.
      platform: "tpu" packs narrow maps into the lanes of TPUs; "" is for any platform.
      **options: config options of the network, by the last part of their names: `gtm`, `gfm_style`,
        `align_corners`, `dtype` (docs/config.md). Without `name`, or with the name of `weights`,
        those of `weights` hold for the rest.

    Returns:
      The network, and its variables as NumPy arrays.

    Raises:
      UserError: an unknown name or keyword, an invalid value, or weights that cannot be used.

    Example:
      >>> model, variables = create_model("gsto_hrnet_w18_small_v2", num_classes=5)
      >>> logits = jax.jit(model.apply)(variables, image).logits
    """
    source = _read_network(weights, prefix)
    if source is not None:
        if name in ("", source.name):
            name, options = source.name, source.options | options
        num_classes = source.num_classes if num_classes is None else num_classes
        channels = source.channels if channels is None else channels
    _check_name(name, weights)
    config = model_config(name, options)
    network = _build(name, config, num_classes, channels, platform=platform)
    model: Model = network
    variables = initial_variables(network, seed)
    loaded = _load(weights, source, variables, name=name, config=config, prefix=prefix)
    variables = loaded.result.variables if loaded else variables
    if features_only:
        model, variables = feature_extractor(network, variables)
    _warn_of_initial_values(loaded, variables)
    return model, variables


def _read_network(weights: str | Path, prefix: str) -> "StoredNetwork | None":
    """Reads a run, a checkpoint or a hub folder; None for a weight file, or without weights."""
    if not weights:
        return None
    # Imports what reads checkpoints, which takes seconds.
    from gsto_jax.hub.sources import read_network

    source = read_network(weights)
    if source is not None and prefix != "auto":
        raise UserError(f"prefix must be 'auto' unless weights are a file; got {prefix!r}")
    return source


def _check_name(name: str, weights: str | Path) -> None:
    if not name:
        reason = f"{weights} does not say its network" if weights else "there are no weights"
        raise UserError(f"name must be one of list_models(), since {reason}; got ''")


def _build(
    name: str, config: ModelConfig, num_classes: int | None, channels: int | None, *, platform: str
) -> HRNet | ContextNet:
    outputs = default_outputs(name) if num_classes is None else num_classes
    return build_network(
        config,
        _positive("num_classes", outputs),
        in_channels=_positive("channels", 3 if channels is None else channels),
        platform=platform,
    )


def _load(
    weights: str | Path,
    source: "StoredNetwork | None",
    variables: dict[str, Any],
    *,
    name: str,
    config: ModelConfig,
    prefix: str,
) -> "LoadedWeights | None":
    """Loads a network or a weight file; None without weights."""
    if not weights:
        return None
    from gsto_jax.hub.sources import load_file, load_network

    if source is None:
        return load_file(weights, variables, config, prefix)
    return load_network(source, variables, name, config)


def _warn_of_initial_values(loaded: "LoadedWeights | None", variables: dict[str, Any]) -> None:
    """Warns of notes on loaded weights, and of variables that keep their initial values."""
    if loaded:
        initial = {*chain.from_iterable(loaded.result.initialized.values())}
        if loaded.has_notes or initial & variable_paths(variables):
            warnings.warn(loaded.summary, stacklevel=3)


def _positive(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{name} must be a positive integer; got {value!r}")
    return value
