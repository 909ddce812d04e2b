"""Builds the network of a config, with the kernels and lane packing of a platform."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from gsto_jax.config import Config, ModelConfig
from gsto_jax.errors import StatisticsError, UserError
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
        ocr=config.hrnet.ocr_spec,
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


def batch_norm_error(config: Config, shape: Sequence[int], error: StatisticsError) -> UserError:
    """Returns an error that names the options that leave BN fewer than two values per channel.

    Args:
      config: options of the run.
      shape: shape `b h w c` of the images of a pass.
      error: the error of a BatchNorm.
    """
    train, bn_groups = config.train, config.model.bn_groups
    return UserError(
        f"{str(error).partition(':')[0]} would see fewer than 2 values per channel in training: "
        f"with config.train.batch_size {train.batch_size}, config.train.grad_accum_steps "
        f"{train.grad_accum_steps} and config.model.bn_groups {bn_groups} it normalizes "
        f"{shape[0] // bn_groups} crops of {shape[1]} x {shape[2]} at a time. Use a larger batch, "
        "fewer accumulation steps, fewer groups or a larger config.data.crop"
    )
