"""The network of a configuration, with the kernels and the packing of the devices that run it."""

from typing import Any

import jax.numpy as jnp

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.specs import ResNetSpec, get_spec
from gsto_jax.ops.packing import LANES

_PLATFORMS = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}
"""Platform of each implementation by kernels."""


def network(config: ModelConfig, num_classes: int, *, platform: str = "") -> HRNet | ContextNet:
    """Builds the network of a configuration.

    Args:
      config: settings of the network.
      num_classes: channels of its output.
      platform: of the devices that run it, which settles kernels and packing; "": any.

    Raises:
      UserError: `config.implementation` names kernels of another platform.
    """
    body = get_spec(config.variant)
    shared: dict[str, Any] = {
        "num_classes": num_classes,
        "align_corners": config.align_corners,
        "init_name": config.init,
        "bn_momentum": config.bn_momentum,
        "bn_statistics": config.bn_statistics,
        "bn_groups": config.bn_groups,
        "remat": config.remat,
        "implementation": implementation_on(config.implementation, platform),
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
        lanes=LANES if platform == "tpu" and config.pack else 0,
        **shared,
    )


def implementation_on(name: str, platform: str) -> str | None:
    """Returns the implementation that a platform runs; None leaves the choice to each operation.

    Left to choose, GPUs get XLA's operations, which were as fast (docs/performance.md).

    Raises:
      UserError: it is one of another platform.
    """
    if platform and _PLATFORMS.get(name, platform) != platform:
        raise UserError(
            f"config.model.implementation is {name!r}, and these devices are of the kind "
            f"{platform!r}: use auto or xla"
        )
    if name != "auto":
        return name
    # Named, so that nothing traces kernels for other devices.
    return None if platform in ("", "tpu") else "xla"
