"""Config options of the library, declared and validated once (docs/config.md). Imports no JAX."""

from dataclasses import dataclass

from gsto_jax.config.augment import AugmentConfig
from gsto_jax.config.fields import (
    MODEL,
    OPTIMIZER,
    RUNTIME,
    Section,
    config_changes,
    describe_option,
    flatten,
    iter_options,
    option,
    option_role,
    subsection,
)
from gsto_jax.config.model import HRNetConfig, ModelConfig
from gsto_jax.config.pose import PoseConfig
from gsto_jax.config.sections import (
    EvalConfig,
    LossConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "MODEL",
    "RUNTIME",
    "AugmentConfig",
    "Config",
    "HRNetConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PoseConfig",
    "Section",
    "config_changes",
    "describe_option",
    "flatten",
    "iter_options",
    "option_role",
]


@dataclass(frozen=True, kw_only=True)
class Config(Section, role=MODEL):
    """All options except the data options (`data_pipelines.DataConfig`)."""

    name: str = option("base", "Name of the run, in tables and of its default folder", role=RUNTIME)
    task: str = option("segmentation", "Task", choices=("segmentation", "pose", "classification"))
    init_from: str = option(
        "",
        "Weights to start from: a run, its best/, a checkpoint, a hub folder, or a .pth or "
        ".safetensors file (docs/weights.md); empty: random weights",
        is_path=True,
    )
    init_prefix: str = option(
        "auto",
        'Prefix of the keys in init_from, such as "state_dict_ema." for EMA weights; empty: none; '
        "auto: detected",
    )
    seed: int = option(
        0,
        "Random seed of initial weights, image order and augmentation",
        ge=0,
        lt=2**32,
        expected="an integer from 0 to 2^32 - 1",
        role=OPTIMIZER,
    )
    model: ModelConfig = subsection(ModelConfig)
    loss: LossConfig = subsection(LossConfig)
    optim: OptimConfig = subsection(OptimConfig)
    train: TrainConfig = subsection(TrainConfig)
    augment: AugmentConfig = subsection(AugmentConfig)
    eval: EvalConfig = subsection(EvalConfig)
    pose: PoseConfig = subsection(PoseConfig)
    parallel: ParallelConfig = subsection(ParallelConfig)
    run: RunConfig = subsection(RunConfig)

    def check(self) -> None:
        """Raises UserError if head and task differ, or BN groups do not divide a microbatch."""
        is_classification = self.task == "classification"
        self.model.hrnet.require(
            (self.model.hrnet.head == "cls") == is_classification,
            "head",
            f"{'' if is_classification else 'other than '}'cls' with config.task={self.task}",
        )
        self.model.require(
            not (is_classification and self.model.is_context_net),
            "variant",
            "an HRNet with config.task=classification",
        )
        microbatch = self.train.batch_size // self.train.grad_accum_steps
        self.model.require(
            microbatch % self.model.bn_groups == 0,
            "bn_groups",
            f"a divisor of the microbatch size, {microbatch} (train.batch_size / "
            "train.grad_accum_steps)",
        )
