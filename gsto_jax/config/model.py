"""Config options of the network."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gsto_jax.config.fields import MODEL, OPTIMIZER, RUNTIME, Section, option, subsection

if TYPE_CHECKING:
    from gsto_jax.models.specs import AttentionSpec, GSTOSpec, HRNetSpec, ResNetSpec

_GATES = {
    "none": "no gates",
    "supervised": "gates from a supervised head",
    "unsupervised": "gates without a loss of their own",
    "head_only": "a supervised head that gates nothing",
}


@dataclass(frozen=True, kw_only=True)
class HRNetConfig(Section, prefix="model.hrnet", role=MODEL):
    """What only an HRNet has. See `GSTOSpec`, `AttentionSpec` and `HRNet`."""

    gfm: bool = option(True, "Gates the fusions (GFM; paper, section 3.2.1)")
    self_gate: bool = option(True, "GFM gates each branch's own path too")
    gfm_style: str = option(
        "released",
        "Style of the GFM gates",
        choices={"released": "as in the released code", "paper": "eq. 4"},
    )
    gtm: tuple[str, str, str] = option(
        ("none", "supervised", "supervised"),
        "Transitions after stages 1, 2 and 3 (GTM; section 3.2.2)",
        choices=_GATES,
    )
    gtm_style: str = option(
        "released",
        "Style of the GTM gates",
        choices={"released": "gates the lowest branch", "paper": "gates the concatenation"},
    )
    attention: str = option("none", "Other gates (Table 3)", choices=("none", "channel", "spatial"))
    attention_position: str = option(
        "block",
        "Position of these gates",
        choices={
            "block": "after each branch of a module",
            "layer": "after each residual unit, or each convolution if spatial",
            "transfer": "where maps change their scale",
        },
    )
    head: str = option(
        "v2",
        "Head",
        choices={"v2": "on all branches, concatenated", "v1": "on branch 0 (HRNet for pose)"},
    )
    upsample: str = option("bilinear", "Upsampling in the fusions", choices=("bilinear", "nearest"))

    def check(self) -> None:
        """Raises UserError for gates that GSTO has under another name."""
        _ = self.attention_spec

    @property
    def gsto(self) -> "GSTOSpec":
        """The gates."""
        from gsto_jax.models.specs import GSTOSpec

        names = ("gfm", "self_gate", "gfm_style", "gtm", "gtm_style")
        return GSTOSpec(**{name: getattr(self, name) for name in names})

    @property
    def attention_spec(self) -> "AttentionSpec":
        """The gates that are not GSTO's."""
        from gsto_jax.models.specs import AttentionSpec

        return AttentionSpec(kind=self.attention, position=self.attention_position)


@dataclass(frozen=True, kw_only=True)
class ContextNetConfig(Section, prefix="model.context_net", role=MODEL):
    """What only a ResNet with a context module has. See `ContextNet`."""

    module: str = option("ppm", "Context module (Table 6)", choices=("ppm", "aspp"))
    gating: str = option("none", "Gates of the context module", choices=_GATES)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section, prefix="model", role=MODEL):
    """The network."""

    variant: str = option(
        "w18_small_v2",
        "Body: w18_small_v2, w18, w32, w48 or mini (HRNet); resnet50 or resnet_mini (with a "
        "context module)",
    )
    align_corners: bool = option(False, "Of every bilinear upsampling")
    init: str = option(
        "hrnet",
        "Initial weights",
        choices={"hrnet": "N(0, 0.001)", "he": "He normal, fan out, for runs from scratch"},
        role=OPTIMIZER,
    )
    bn_momentum: float = option(
        0.99,
        "Share of the old running statistics that a step keeps (0.01 in PyTorch's terms); step n "
        "keeps (1 + n) / (10 + n) where that is less, so that short runs forget the initial values",
        ge=0,
        lt=1,
        role=OPTIMIZER,
    )
    bn_statistics: str = option(
        "one_pass",
        "How often BN reads a map (see BatchNorm)",
        choices=("one_pass", "two_pass"),
        role=RUNTIME,
    )
    bn_groups: int = option(
        1,
        "Parts of the batch that BN normalizes apart; as many as chips: no waiting",
        ge=1,
        role=OPTIMIZER,
    )
    remat: bool = option(False, "Keeps less for the gradient, and computes it again", role=RUNTIME)
    implementation: str = option(
        "auto",
        "Implementation of gates and losses",
        choices=("auto", "xla", "pallas_tpu", "pallas_gpu"),
        role=RUNTIME,
    )
    pack: bool = option(
        True,
        "On TPUs neighboring pixels share the lanes that few channels leave empty",
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
        """Raises UserError for options of another network, or a dtype that JAX does not have."""
        unused = self.hrnet if self.is_context_net else self.context_net
        for field in dataclasses.fields(unused):
            remedy = f"leave it at {field.default!r}, for model.variant is {self.variant}"
            unused.require(getattr(unused, field.name) == field.default, field.name, remedy)
        self.require(
            self.dtype != "float64" or self.compute_dtype == "float64",
            "dtype",
            "set the environment variable JAX_ENABLE_X64=1 to compute in float64",
        )

    @property
    def body(self) -> "HRNetSpec | ResNetSpec":
        """The specification that `variant` names. Raises UserError if there is none."""
        from gsto_jax.models.specs import get_spec

        return get_spec(self.variant)

    @property
    def is_context_net(self) -> bool:
        """Whether the network is a ResNet with a context module."""
        from gsto_jax.models.specs import ResNetSpec

        return isinstance(self.body, ResNetSpec)

    @property
    def gates(self) -> tuple[str, ...]:
        """Kinds of the gates of each GTM, or of the context module."""
        return (self.context_net.gating,) if self.is_context_net else self.hrnet.gtm

    @property
    def has_gates(self) -> bool:
        """Whether the network gates anything."""
        from gsto_jax.models.specs import has_gates

        return has_gates(self.hrnet.gfm and not self.is_context_net, self.gates)

    @property
    def output_stride(self) -> int:
        """Stride of the logits relative to the image."""
        return getattr(self.body, "output_stride", 4)

    @property
    def compute_dtype(self) -> Any:
        """The dtype that `dtype` names, as JAX computes in it."""
        import jax

        return jax.dtypes.canonicalize_dtype(self.dtype)
