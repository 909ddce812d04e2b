"""Creates networks by name, or as a folder of weights describes them."""

import warnings
from itertools import chain
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.hub.names import default_outputs, model_config
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.features import HRNetFeatures, ResNetFeatures, feature_extractor
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.initialize import initial_variables, variable_paths
from gsto_jax.training.network import build_network

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
      features_only: whether to return a network without heads, called for a list of feature maps,
        that `feature_info` describes.
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
      UserError: an unknown name or keyword, an invalid value, or weights that cannot be read or are
        of another body.

    Example:
      >>> model, variables = create_model("gsto_hrnet_w18_small_v2", num_classes=5)
      >>> logits = jax.jit(model.apply)(variables, image).logits
    """
    source = None
    if weights:
        # Imports what reads checkpoints, which takes seconds.
        from gsto_jax.hub.sources import load_file, load_network, read_network

        source = read_network(weights)
    if source is not None:
        if prefix != "auto":
            raise UserError(f"prefix must be 'auto' unless weights are a file; got {prefix!r}")
        if name in ("", source.name):
            name, options = source.name, source.options | options
        num_classes = source.num_classes if num_classes is None else num_classes
        channels = source.channels if channels is None else channels
    if not name:
        reason = f"{weights} does not say its network" if weights else "there are no weights"
        raise UserError(f"name must be one of list_models(), since {reason}; got ''")
    config = model_config(name, options)
    network = build_network(
        config,
        _positive("num_classes", default_outputs(name) if num_classes is None else num_classes),
        in_channels=_positive("channels", 3 if channels is None else channels),
        platform=platform,
    )
    loaded, variables = None, initial_variables(network, seed)
    if source is not None:
        loaded = load_network(source, variables, name, config)
    elif weights:
        loaded = load_file(weights, variables, config, prefix)
    model: Model = network
    variables = loaded.result.variables if loaded else variables
    if features_only:
        model, variables = feature_extractor(network, variables)
    if loaded:
        fresh = {*chain.from_iterable(loaded.result.initialized.values())}
        if loaded.has_notes or fresh & variable_paths(variables):
            warnings.warn(loaded.summary, stacklevel=2)
    return model, variables


def _positive(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{name} must be a positive integer; got {value!r}")
    return value
