"""The library's config options: declared once, validated once, then passed around as they are.

`docs/config.md` lists all of them. Imports no JAX.
"""

from dataclasses import dataclass

from gsto_jax.config.fields import (
    MODEL,
    OPTIMIZER,
    RUNTIME,
    Section,
    changes,
    explain,
    flat,
    role,
    setting,
    settings,
    subsection,
)
from gsto_jax.config.model import HRNetConfig, ModelConfig
from gsto_jax.config.sections import (
    EvalConfig,
    LossConfig,
    OptimConfig,
    ParallelConfig,
    PoseConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "MODEL",
    "RUNTIME",
    "Config",
    "HRNetConfig",
    "LossConfig",
    "ModelConfig",
    "PoseConfig",
    "Section",
    "changes",
    "explain",
    "flat",
    "role",
    "settings",
]


@dataclass(frozen=True, kw_only=True)
class Config(Section, role=MODEL):
    """Everything but the data, which `data_pipelines.DataConfig` holds."""

    name: str = setting("base", "Name of the run's folder and in tables", role=RUNTIME)
    task: str = setting("segmentation", "Task", choices=("segmentation", "pose"))
    init_from: str = setting(
        "",
        "A .pth or .safetensors file whose weights the run starts from (docs/weights.md); empty: "
        "none",
    )
    init_prefix: str = setting(
        "auto",
        'Prefix of the keys in that file, such as "state_dict_ema." for its averaged weights; '
        "empty: none; auto: found by the network's own keys",
    )
    seed: int = setting(
        0,
        "Of the initial weights, the order of the images and the augmentation",
        ge=0,
        lt=2**32,
        wanted="use 0 to 2^32 - 1",
        role=OPTIMIZER,
    )
    model: ModelConfig = subsection(ModelConfig)
    loss: LossConfig = subsection(LossConfig)
    optim: OptimConfig = subsection(OptimConfig)
    train: TrainConfig = subsection(TrainConfig)
    eval: EvalConfig = subsection(EvalConfig)
    pose: PoseConfig = subsection(PoseConfig)
    parallel: ParallelConfig = subsection(ParallelConfig)
    run: RunConfig = subsection(RunConfig)

    def check(self) -> None:
        """Raises UserError for groups of BN that do not divide what passes at a time."""
        part = self.train.batch_size // self.train.accumulate
        self.model.require(
            part % self.model.bn_groups == 0,
            "bn_groups",
            f"use a divisor of the {part} images that pass at a time (train.batch_size / "
            "train.accumulate)",
        )
