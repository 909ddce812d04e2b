"""Config options of the network."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gsto_jax.config.fields import MODEL, OPTIMIZER, RUNTIME, Section, option, subsection

if TYPE_CHECKING:
    from gsto_jax.models.specs import AttentionSpec, GSTOSpec, HRNetSpec, OCRSpec, ResNetSpec

_GATES = {
    "none": "no gates",
    "supervised": "gates from the logits of a supervised head",
    "unsupervised": "gates without a supervised head",
    "head_only": "a supervised head without gates",
}
_FORMS = {
    "open": "as released, but g is about 0.95 at the start (BN's bias is 3)",
    "doubled": "2 sigmoid(BN), of mean 1 at the start",
    "residual": "1 + tanh(BN), which is 1 at the start (BN's scale is 0)",
}


@dataclass(frozen=True, kw_only=True)
class HRNetConfig(Section, prefix="model.hrnet", role=MODEL):
    """Options of HRNet. See `GSTOSpec`, `AttentionSpec` and `HRNet`."""

    gfm: bool = option(True, "Gate the fusions (GFM; paper, section 3.2.1)")
    self_gate: bool = option(True, "Gate the identity paths of the fusions too")
    gfm_style: str = option(
        "released",
        "Style of the GFM gates (docs/gates.md)",
        choices={"released": "as in the released code", "paper": "eq. 4", **_FORMS},
    )
    gtm: tuple[str, str, str] = option(
        ("none", "supervised", "supervised"),
        "Gates of the transitions after stages 1, 2 and 3 (GTM; paper, section 3.2.2)",
        choices=_GATES,
    )
    gtm_style: str = option(
        "released",
        "Style of the GTM gates; all but paper gate the lowest-resolution branch",
        choices={
            "released": "as in the released code",
            "paper": "gates the concatenated branches",
            **_FORMS,
        },
    )
    attention: str = option(
        "none",
        "Attention gates other than GSTO (paper, Table 3)",
        choices=("none", "channel", "spatial"),
    )
    attention_position: str = option(
        "block",
        "Position of the attention gates",
        choices={
            "block": "after each branch of a module",
            "layer": "after each residual unit, or each convolution if spatial",
            "transfer": "before each scale transfer",
        },
    )
    head: str = option(
        "v2",
        "Head",
        choices={
            "v2": "all branches, concatenated",
            "v1": "branch 0 only (HRNet pose)",
            "cls": "classes of whole images (HRNet-C), with task=classification",
            "ocr": "v2 and object-contextual representations (docs/context.md)",
        },
    )
    ocr_features: int = option(
        512, "Head ocr: channels of pixel features, object regions and context", ge=1
    )
    ocr_key_features: int = option(256, "Head ocr: channels of queries, keys and values", ge=1)
    ocr_dropout: float = option(
        0.05,
        "Head ocr: fraction of the channels before the classifier that are dropped in training",
        ge=0,
        lt=1,
        role=OPTIMIZER,
    )
    upsample: str = option(
        "bilinear", "Upsampling method in the fusions", choices=("bilinear", "nearest")
    )

    def check(self) -> None:
        """Raises UserError for invalid attention gates, or options of another head."""
        _ = self.attention_spec
        for field in dataclasses.fields(self):
            if field.name.startswith("ocr_") and self.head != "ocr":
                self.require_default(field.name, f"with model.hrnet.head={self.head}")

    @property
    def gsto(self) -> "GSTOSpec":
        """Specification of the GSTO gates."""
        from gsto_jax.models.specs import GSTOSpec

        names = ("gfm", "self_gate", "gfm_style", "gtm", "gtm_style")
        return GSTOSpec(**{name: getattr(self, name) for name in names})

    @property
    def attention_spec(self) -> "AttentionSpec":
        """Specification of the attention gates."""
        from gsto_jax.models.specs import AttentionSpec

        return AttentionSpec(kind=self.attention, position=self.attention_position)

    @property
    def ocr_spec(self) -> "OCRSpec":
        """Sizes of the head "ocr"."""
        from gsto_jax.models.specs import OCRSpec

        return OCRSpec(
            features=self.ocr_features,
            key_features=self.ocr_key_features,
            dropout=self.ocr_dropout,
        )


@dataclass(frozen=True, kw_only=True)
class ContextNetConfig(Section, prefix="model.context_net", role=MODEL):
    """Options of a ResNet with a context module. See `ContextNet`."""

    module: str = option("ppm", "Context module (paper, Table 6)", choices=("ppm", "aspp"))
    gating: str = option("none", "Gates of the context module", choices=_GATES)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section, prefix="model", role=MODEL):
    """Options of the network."""

    variant: str = option(
        "w18_small_v2",
        "Backbone: w18_small_v2, w18, w32, w48 or mini (HRNet); resnet50 or resnet_mini (with a "
        "context module)",
    )
    align_corners: bool = option(False, "align_corners of all bilinear upsampling")
    init: str = option(
        "hrnet",
        "Weight initialization",
        choices={"hrnet": "N(0, 0.001)", "he": "He normal, fan out, for training from scratch"},
        role=OPTIMIZER,
    )
    bn_momentum: float = option(
        0.99,
        "Fraction of the running statistics that BN keeps per update (0.99 is momentum 0.01 in "
        "PyTorch); update n keeps min(bn_momentum, (1 + n) / (10 + n)), which helps short runs",
        ge=0,
        lt=1,
        role=OPTIMIZER,
    )
    bn_statistics: str = option(
        "one_pass",
        "Passes over a feature map in which BN computes its statistics (see BatchNorm)",
        choices=("one_pass", "two_pass"),
        role=RUNTIME,
    )
    bn_groups: int = option(
        1,
        "Groups of the batch with separate BN statistics; one per chip avoids communication",
        ge=1,
        role=OPTIMIZER,
    )
    freeze: tuple[str, ...] = option(
        (),
        'Patterns (fnmatch) of the parameters or modules to freeze, such as "stem*" or '
        '"stage?_module*"; BN layers in them use their running statistics (docs/training.md)',
        role=OPTIMIZER,
        expected="a list of patterns, none of them empty",
    )
    freeze_bn: bool = option(
        False,
        "Normalize by the running statistics of all BN layers, unchanged, also in training, for "
        "small batches; scales and biases still train",
        role=OPTIMIZER,
    )
    remat: float = option(
        0.0,
        "Share of the modules (ResNet: bottlenecks), the first ones, that are rematerialized in "
        "the backward pass, to save memory; 1: all",
        ge=0,
        le=1,
        role=RUNTIME,
    )
    implementation: str = option(
        "auto",
        "Implementation of gates and losses; auto: the fastest for the platform",
        choices=("auto", "xla", "pallas_tpu", "pallas_gpu"),
        role=RUNTIME,
    )
    lane_packing: bool = option(
        True,
        "Pack neighboring pixels of narrow feature maps into TPU lanes",
        role=RUNTIME,
    )
    dtype: str = option(
        "float32",
        "Compute dtype; float64 needs JAX_ENABLE_X64=1",
        choices=("float32", "bfloat16", "float64"),
        role=OPTIMIZER,
    )
    hrnet: HRNetConfig = subsection(HRNetConfig)
    context_net: ContextNetConfig = subsection(ContextNetConfig)

    def check(self) -> None:
        """Raises UserError for incompatible options, or float64 without JAX_ENABLE_X64."""
        self.require(all(self.freeze), "freeze", "a list of patterns, none of them empty")
        unused = self.hrnet if self.is_context_net else self.context_net
        for field in dataclasses.fields(unused):
            # Configs for random weights set these styles before `variant` is overridden.
            if field.name not in ("gfm_style", "gtm_style"):
                unused.require_default(field.name, f"with model.variant={self.variant}")
        self.require(
            self.dtype != "float64" or self.compute_dtype == "float64",
            "dtype",
            "float32 or bfloat16 unless the environment variable JAX_ENABLE_X64=1 is set",
        )

    @property
    def body(self) -> "HRNetSpec | ResNetSpec":
        """Specification of the backbone. Raises UserError for an unknown variant."""
        from gsto_jax.models.specs import get_spec

        return get_spec(self.variant)

    @property
    def is_context_net(self) -> bool:
        """Whether the network is a ResNet with a context module."""
        from gsto_jax.models.specs import ResNetSpec

        return isinstance(self.body, ResNetSpec)

    @property
    def gates(self) -> tuple[str, ...]:
        """Gating mode of each GTM, or of the context module."""
        return (self.context_net.gating,) if self.is_context_net else self.hrnet.gtm

    @property
    def has_gates(self) -> bool:
        """Whether the network has gates."""
        from gsto_jax.models.specs import has_gates

        return has_gates(self.hrnet.gfm and not self.is_context_net, self.gates)

    @property
    def has_dropout(self) -> bool:
        """Whether training drops channels at random."""
        return self.hrnet.head == "ocr" and self.hrnet.ocr_dropout > 0

    @property
    def output_stride(self) -> int:
        """Stride of the logits in image pixels."""
        return getattr(self.body, "output_stride", 4)

    @property
    def compute_dtype(self) -> Any:
        """Compute dtype, as JAX supports it."""
        import jax

        return jax.dtypes.canonicalize_dtype(self.dtype)
