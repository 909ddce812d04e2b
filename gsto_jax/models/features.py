"""Feature extractors: the networks without their heads."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float, Real

from gsto_jax.models.base import Network
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.resnet import ResNet
from gsto_jax.models.specs import ResNetSpec
from gsto_jax.ops.checks import check_map, instance_of
from gsto_jax.ops.spatial_sharding import shard_height


class FeatureInfo(NamedTuple):
    """A feature map that an extractor returns.

    Attributes:
      name: name of the map, such as "stage4/branch0".
      channels: its channels.
      stride: its stride in image pixels; its size is that of the image divided by it, rounded up.
    """

    name: str
    channels: int
    stride: int


class HRNetFeatures(HRNet):
    """An `HRNet` without its head. Supervised GTMs keep theirs, which their gates read."""

    has_head: ClassVar = False

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Name, channels and stride of each returned map, highest resolution first."""
        widths = self.spec.widths[:1] if self.head == "v1" else self.spec.widths
        return tuple(FeatureInfo(f"stage4/branch{j}", w, 4 << j) for j, w in enumerate(widths))

    @nn.compact
    def __call__(  # type: ignore[override]
        self, image: Real[Array, "b h w c"], train: bool = False
    ) -> list[Float[Array, "b _ _ _"]]:
        """Returns the branches after stage 4; see `HRNet.__call__`."""
        return super().__call__(image, train).branches["stage4"]


class ResNetFeatures(Network):
    """The encoder of a `ContextNet`.

    Attributes:
      spec: the encoder.
      init_name: initializer of the convolutions, "hrnet" or "he".
    """

    rules: ClassVar = {"spec": instance_of(ResNetSpec, 'RESNETS["resnet50"]')}

    spec: ResNetSpec
    init_name: str = "he"

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Name, channels and stride of each returned map, stage 1 first."""
        spec = self.spec
        return tuple(
            FeatureInfo(f"stage{n + 1}", 4 * spec.planes << n, min(4 << n, spec.output_stride))
            for n in range(4)
        )

    @nn.compact
    def __call__(
        self, image: Real[Array, "b h w c"], train: bool = False
    ) -> list[Float[Array, "b _ _ _"]]:
        """Returns the maps of the four stages; see `ResNet.__call__`."""
        check_map(image, "ResNetFeatures", channels=self.in_channels)
        factories = self.layer_factories(self.init_name)
        encoder = ResNet(self.spec, self.remat, **factories, name="encoder")
        return encoder(shard_height(image.astype(self.dtype)), train)


def feature_extractor(
    network: HRNet | ContextNet, variables: Mapping[str, Any]
) -> tuple[HRNetFeatures | ResNetFeatures, dict[str, Any]]:
    """Returns a network without its heads, and the variables that it has.

    Args:
      network: the network.
      variables: its variables.

    Example:
      >>> model, variables = feature_extractor(network, variables)
      >>> maps = model.apply(variables, image)
      >>> [(x.shape[-1], info.stride) for x, info in zip(maps, model.feature_info)]
    """
    extractor = HRNetFeatures if isinstance(network, HRNet) else ResNetFeatures
    names = {field.name for field in dataclasses.fields(extractor)} - {"parent", "name"}
    model = extractor(**{name: getattr(network, name) for name in names})
    selected = {
        collection: {
            name: tree
            for name, tree in modules.items()
            if (name not in ("head", "ocr") if isinstance(network, HRNet) else name == "encoder")
        }
        for collection, modules in variables.items()
    }
    return model, selected
