"""Config options of the augmentation that runs on the device."""

from dataclasses import dataclass, fields

from gsto_jax.config.fields import OPTIMIZER, Section, option


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section, prefix="augment", role=OPTIMIZER):
    """Random changes of the pixels of training images. See `gsto_jax.training.augmentation`."""

    brightness: float = option(
        0.0, "Maximum change of brightness, as a fraction of white; 0: none", ge=0, le=1
    )
    contrast: float = option(
        0.0, "Contrast is multiplied by 1 - contrast to 1 + contrast; 0: unchanged", ge=0, le=1
    )
    saturation: float = option(
        0.0, "Saturation is multiplied by 1 - saturation to 1 + saturation", ge=0, le=1
    )
    hue: float = option(
        0.0, "Maximum change of hue, as a fraction of the color circle", ge=0, le=0.5
    )
    gamma: float = option(
        0.0, "Gamma correction with an exponent of 1 / (1 + gamma) to 1 + gamma", ge=0, le=10
    )
    blur: float = option(
        0.0, "Maximum standard deviation of a Gaussian blur in pixels; 0: none", ge=0, le=20
    )
    cutout: float = option(
        0.0,
        "Maximum side of an erased square, as a fraction of the crop's shorter side; its pixels "
        "get the mean color and keep their labels",
        ge=0,
        le=1,
    )

    @property
    def is_enabled(self) -> bool:
        """Whether any option is on."""
        return any(getattr(self, field.name) for field in fields(self))
