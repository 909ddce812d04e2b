"""Builds the network of a config, with the kernels and lane packing of a platform."""

from typing import Any

import jax.numpy as jnp

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.specs import ResNetSpec, get_spec
from gsto_jax.ops.packing import LANES

_PLATFORMS = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}
"""Platforms of the kernel implementations."""


def build_network(
    config: ModelConfig, num_classes: int, *, in_channels: int = 3, platform: str = ""
) -> HRNet | ContextNet:
    """Builds the network of a config.

    Args:
      config: options of the network.
      num_classes: number of output channels.
      in_channels: channels of the images.
      platform: "cpu", "gpu" or "tpu", which decides about kernels and lane packing; "" for any.

    Raises:
      UserError: `config.implementation` is for another platform.
    """
    body = get_spec(config.variant)
    shared: dict[str, Any] = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "align_corners": config.align_corners,
        "init_name": config.init,
        "bn_momentum": config.bn_momentum,
        "bn_statistics": config.bn_statistics,
        "bn_groups": config.bn_groups,
        "remat": config.remat,
        "implementation": resolve_implementation(config.implementation, platform),
        "dtype": config.compute_dtype,
        "param_dtype": jnp.promote_types(config.compute_dtype, jnp.float32),
    }
    if isinstance(body, ResNetSpec):
        return ContextNet(body, config.context_net.module, config.context_net.gating, **shared)
    return HRNet(
        body,
        config.hrnet.gsto,
        head=config.hrnet.head,
        upsample=config.hrnet.upsample,
        attention=config.hrnet.attention_spec,
        lanes=LANES if platform == "tpu" and config.lane_packing else 0,
        **shared,
    )


def resolve_implementation(name: str, platform: str) -> str | None:
    """Returns the implementation for a platform; None leaves the choice to each operation.

    "auto" on GPUs is XLA, which is as fast as the kernels (docs/performance.md).

    Raises:
      UserError: the implementation is for another platform.
    """
    if platform and _PLATFORMS.get(name, platform) != platform:
        raise UserError(
            f"config.model.implementation must be auto or xla on {platform} devices; got {name!r}"
        )
    if name != "auto":
        return name
    # An explicit "xla" keeps other platforms from tracing kernels.
    return None if platform in ("", "tpu") else "xla"
