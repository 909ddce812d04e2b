"""Config options of training, evaluation and the run."""

from dataclasses import dataclass

from gsto_jax.config.fields import OPTIMIZER, RUNTIME, Section, option

Terms = tuple[tuple[str, float], ...]
LOSS_TERMS = {
    "ce": "cross-entropy",
    "ohem": "cross-entropy with online hard example mining",
    "focal": "focal loss",
    "dice": "Dice loss",
    "lovasz": "Lovász-softmax",
}
"""Terms of a segmentation loss, and their descriptions."""
_TERMS = f"pairs (term, weight above 0) with a term of {', '.join(LOSS_TERMS)}"
_PAD_MULTIPLES = range(4, 4097, 4)  # the output stride of a network is at least 4
TRACKERS = ("tensorboard", "wandb", "mlflow")
_PAD_TO = "a multiple of 4 up to 4096, such as 32, or 'published'"


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section, prefix="loss", role=OPTIMIZER):
    """Losses of the heads. See `gsto_jax.losses`."""

    terms: Terms = option(
        (("ce", 1.0),),
        "Loss of the final head: pairs (term, weight), whose weighted losses are summed",
        choices=LOSS_TERMS,
        gt=0,
        expected=_TERMS,
    )
    head_terms: Terms = option(
        (("ce", 1.0),),
        "Loss of the other supervised heads, likewise",
        choices=tuple(LOSS_TERMS),
        gt=0,
        expected=_TERMS,
    )
    stage_weights: tuple[float, float, float, float] = option(
        (0.2, 0.3, 0.5, 1.0), "Loss weights of the heads after stages 1 to 4", ge=0
    )
    context_weight: float = option(
        0.4,
        "Loss weight of the supervised predictor in a context module, or of the soft object "
        "regions of model.hrnet.head=ocr",
        ge=0,
    )
    class_weights: bool = option(False, "Weight the classes by data.class_weights, in all terms")
    ohem_threshold: float = option(
        0.9,
        "OHEM: pixels whose true class has a probability below this are hard",
        ge=0,
        le=1,
    )
    ohem_min_kept: int = option(
        43691,
        "OHEM: minimum number of hard pixels per image (the published 131072 is per three images)",
        ge=0,
    )
    focal_gamma: float = option(
        2.0, "Focal loss: exponent of 1 - p, with the probability p of a pixel's class", ge=0
    )
    label_smoothing: float = option(
        0.0,
        "Terms ce and ohem: fraction of the target that is spread evenly over all classes",
        ge=0,
        lt=1,
    )

    def check(self) -> None:
        """Raises UserError if the final head has no weight, or a term is missing or repeated."""
        expected = "four weights, none negative, the last one positive"
        self.require(self.stage_weights[-1] > 0, "stage_weights", expected)
        for name in ("terms", "head_terms"):
            terms = [term for term, _ in getattr(self, name)]
            self.require(terms and len({*terms}) == len(terms), name, f"{_TERMS}, each once")
        smoothed = {"ce", "ohem"} & {term for term, _ in self.terms + self.head_terms}
        expected = "0 without a term ce or ohem"
        self.require(smoothed or not self.label_smoothing, "label_smoothing", expected)

    @property
    def head_weights(self) -> dict[str, float]:
        """Loss weights keyed by "stage1" to "stage4" and "context"."""
        stages = {f"stage{n}": weight for n, weight in enumerate(self.stage_weights, 1)}
        return stages | {"context": self.context_weight}


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Section, prefix="optim", role=OPTIMIZER):
    """Optimizer and learning-rate schedule. See `gsto_jax.training.optimizers`."""

    kind: str = option(
        "sgd",
        "Optimizer",
        choices={
            "sgd": "SGD with momentum, as in PyTorch",
            "adam": "Adam, as in PyTorch",
            "adamw": "as in optax",
            "nadamw": "AdamW with Nesterov momentum, as in optax",
            "lamb": "as in optax",
            "lars": "as in optax",
            "lion": "as in optax",
        },
    )
    schedule: str = option(
        "poly",
        "Learning-rate schedule",
        choices={
            "poly": "(1 - step / steps) ** poly_power",
            "steps": "drops at the milestones",
            "cosine": "half a cosine period, from 1 to 0",
            "onecycle": "rises from 1/25 to 1, then falls to 1/250000, by half cosine periods",
            "constant": "1",
        },
    )
    learning_rate: float = option(0.01, "Base learning rate, which the schedule multiplies", gt=0)
    momentum: float = option(0.9, "Momentum of sgd and lars", ge=0, lt=1)
    nesterov: bool = option(False, "Nesterov momentum of sgd, as in PyTorch")
    betas: tuple[float, ...] = option(
        (),
        "Decay of both moments in adam, adamw, nadamw, lamb and lion; empty: (0.9, 0.999), or "
        "(0.9, 0.99) for lion",
        ge=0,
        lt=1,
    )
    weight_decay: float = option(
        5e-4,
        "Weight decay: added to the gradient by sgd, adam and lars, to the update by the others "
        "(decoupled, times the learning rate)",
        ge=0,
    )
    decay_bn_and_bias: bool = option(
        True,
        "Apply weight decay to BN and biases too, as published; False: neither weight decay nor "
        "the trust ratio of lars",
    )
    no_decay: tuple[str, ...] = option(
        (),
        'Patterns (fnmatch) of parameters or modules without weight decay, such as "*/gate[!s]*" '
        "(docs/training.md)",
        expected="a list of patterns, none of them empty",
    )
    clip_norm: float = option(
        0.0,
        "Largest norm of the gradient of all trained parameters, to which it is scaled; 0: any",
        ge=0,
    )
    milestones: tuple[float, ...] = option(
        (),
        "Schedule steps: fractions of the run after which the learning rate drops",
        gt=0,
        lt=1,
        expected="ascending fractions of the run between 0 and 1",
    )
    decay_rate: float = option(
        0.1, "Schedule steps: factor of the learning rate at each milestone", gt=0, le=1
    )
    poly_power: float = option(0.9, "Schedule poly: exponent of the decay", gt=0)
    lr_lag: bool = option(
        False,
        "Schedule poly: run step n at the learning rate of step n - 1, as the published code does",
    )
    onecycle_rise: float = option(
        0.3, "Schedule onecycle: fraction of the steps in which the rate rises", gt=0, lt=1
    )
    warmup_fraction: float = option(
        0.0,
        "Fraction of the steps with linear learning-rate warmup, for every schedule but onecycle",
        ge=0,
        le=1,
    )
    warmup_start: float = option(
        0.1, "Fraction of the learning rate at which warmup starts", ge=0, le=1
    )
    rates: tuple[tuple[str, float], ...] = option(
        (),
        "Factors of the learning rate: pairs (pattern, factor) over parameters or modules, such as "
        '("head*", 10.0); the last matching pair wins (docs/training.md)',
        gt=0,
        expected="pairs (pattern, factor above 0)",
    )
    ema_decay: float = option(
        0.0, "Decay of the parameter EMA, which evaluation then uses; 0: no EMA", ge=0, lt=1
    )

    def check(self) -> None:
        """Raises UserError for unordered milestones, an empty pattern, one beta, or two warmups."""
        patterns = all(pattern for pattern, _ in self.rates)
        self.require(patterns, "rates", "pairs (pattern, factor above 0)")
        self.require(all(self.no_decay), "no_decay", "a list of patterns, none of them empty")
        ascending = list(self.milestones) == sorted(self.milestones)
        self.require(ascending, "milestones", "ascending fractions of the run")
        self.require(len(self.betas) in (0, 2), "betas", "two numbers, or empty")
        expected = f"False with config.optim.kind={self.kind}"
        self.require(self.kind == "sgd" or not self.nesterov, "nesterov", expected)
        without_warmup = self.schedule != "onecycle" or self.warmup_fraction == 0
        expected = 'zero with config.optim.schedule="onecycle", which rises by itself'
        self.require(without_warmup, "warmup_fraction", expected)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section, prefix="train", role=OPTIMIZER):
    """Batch size and length of the run."""

    batch_size: int = option(12, "Global batch size over all devices and hosts, in images", ge=1)
    recipe_batch_size: int = option(
        0,
        "Batch size that the learning rate was tuned for, which the argument batch=N keeps for "
        "warnings; 0: unknown (docs/large-batches.md)",
        role=RUNTIME,
        ge=0,
    )
    grad_accum_steps: int = option(
        1,
        "Microbatches per step, whose gradients are accumulated; BN statistics, OHEM thresholds, "
        "Dice and Lovász losses are those of a microbatch",
        ge=1,
    )
    steps: int = option(0, "Length of the run in steps; 0: use epochs", ge=0)
    epochs: int = option(
        0, "Length of the run in epochs of floor(images / batch_size) steps; 0: use steps", ge=0
    )

    def check(self) -> None:
        """Raises UserError unless microbatches are equal and one of steps and epochs is set."""
        expected = f"a divisor of train.batch_size, {self.batch_size}"
        self.require(self.batch_size % self.grad_accum_steps == 0, "grad_accum_steps", expected)
        zero = "0" if self.epochs else "above 0"
        expected = (
            f"{zero} with config.train.epochs={self.epochs}, since one of them sets the length"
        )
        self.require((self.steps > 0) != (self.epochs > 0), "steps", expected)

    def total_steps(self, num_images: int) -> int:
        """Returns the length of the run in steps; the last partial batch of an epoch is dropped."""
        return self.steps or self.epochs * (num_images // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Section, prefix="eval", role=RUNTIME):
    """Evaluation protocol and images. See `gsto_jax.segmentation.protocol`."""

    batch_size: int = option(
        1, "Global batch size, in images of one padded shape; rounded up to fill all devices", ge=1
    )
    scales: tuple[float, ...] = option((1.0,), "Test scales, whose scores are summed")
    flip: bool = option(False, "Average the logits of the image and its horizontal flip")
    window: str = option(
        "whole",
        "Input of the network",
        choices={
            "whole": "whole image",
            "slide": "sliding windows of eval.crop",
            "slide_upsampled": "sliding windows at scales above 1 only",
        },
    )
    crop: tuple[int, int] = option(
        (0, 0), "Height and width of a sliding window in pixels; (0, 0): data.crop"
    )
    stride: float = option(2 / 3, "Stride of the sliding windows as a fraction of eval.crop")
    edge: str = option(
        "pad",
        "Last sliding window of a row or column",
        choices={"pad": "extends past the image", "shift": "is moved inside the image"},
    )
    pad: str = option(
        "edge",
        "Padding outside the image",
        choices={
            "edge": "repeated border pixels",
            "mean": "mean color",
            "black": "black",
        },
    )
    pad_to: int | str = option(
        32,
        "Multiple of pixels to which whole images are padded at the right and bottom; 32 scores "
        "best, larger multiples compile fewer programs (docs/evaluation.md); 'published': no "
        "padding, as in the published code",
        expected=_PAD_TO,
    )
    score: str = option(
        "exp",
        "Scores that are summed over scales and windows",
        choices={"exp": "exp of the logits, as published", "softmax": "probabilities"},
    )
    absent: str = option(
        "exclude",
        "IoU of a class with neither ground truth nor prediction",
        choices={"exclude": "excluded from the mean", "zero": "counted as 0"},
    )
    sample_images: int = option(-1, "Number of samples written as PNGs; -1: all", ge=-1)
    feature_images: int = option(
        2,
        "Number of samples for which branch and gate maps are written too (paper, Figure 1), with "
        "eval.window whole; -1: all",
        ge=-1,
    )

    def check(self) -> None:
        """Raises UserError for an unsupported padding multiple."""
        multiple = type(self.pad_to) is int and self.pad_to in _PAD_MULTIPLES
        self.require(multiple or self.pad_to == "published", "pad_to", _PAD_TO)


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(Section, prefix="parallel", role=RUNTIME):
    """Sharding over devices. See `gsto_jax.devices.mesh`."""

    spatial_shards: int = option(
        1, "Devices that share an image, split along its height (docs/distributed.md)", ge=1
    )
    shard_parameters: bool = option(
        False, "Shard parameters and optimizer state over the devices (FSDP)"
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section, prefix="run", role=RUNTIME):
    """Logging, checkpoints and other options that do not change the result."""

    log_every: int = option(20, "Steps between log lines", ge=1)
    steps_ahead: int = option(
        4,
        "Steps that a host may dispatch before the device has completed them, at most a second of "
        "them; each keeps its batch on the device (docs/performance.md)",
        ge=1,
        le=32,
    )
    checkpoint_every: int = option(200, "Steps between checkpoints", ge=1)
    checkpoint_minutes: float = option(
        0.0,
        "Minutes of training since the latest checkpoint after which another one is written, "
        "besides run.checkpoint_every; 0: never",
        ge=0,
    )
    keep_checkpoints: int = option(
        3, "Number of latest checkpoints to keep, besides the best one", ge=1
    )
    eval_every: int = option(0, "Steps between evaluations; 0: only at the end", ge=0)
    patience: int = option(
        0,
        "Number of evaluations in a row without a new best score after which training stops "
        "early; 0: never",
        ge=0,
    )
    stop_at: int = option(
        0, "Step after which to stop early; the same command then resumes; 0: never", ge=0
    )
    profile_start: int = option(0, "First step to profile; 0: profile only on SIGUSR1", ge=0)
    profile_steps: int = option(5, "Number of steps to profile (docs/observability.md)", ge=1)
    stall_seconds: float = option(
        60.0, "Seconds after which a stalled step is logged with its cause; 0: never", ge=0
    )
    trackers: tuple[str, ...] = option(
        ("tensorboard",),
        "Trackers to which metrics and images are written, besides training.jsonl and "
        "evaluations.jsonl (docs/observability.md)",
        choices=TRACKERS,
    )
    compilation_cache: str = option(
        "auto",
        "Folder of the compilation cache; auto: ~/.cache/gsto_jax/xla, or with several processes "
        "xla_cache beside the workdir, which all of them read (docs/distributed.md); empty: none",
        is_path=True,
    )
    preemption_status: int = option(
        42,
        "Exit status of a run that SIGTERM, a maintenance event or the loss of a host ends early, "
        "so that a scheduler restarts it; 3 to 255 (docs/distributed.md)",
        ge=3,
        le=255,
    )

    def check(self) -> None:
        """Raises UserError for patience without evaluations, or a tracker that is named twice."""
        expected = f"above 0 with config.run.patience={self.patience}, which counts evaluations"
        self.require(self.eval_every or not self.patience, "eval_every", expected)
        expected = "different trackers"
        self.require(len(set(self.trackers)) == len(self.trackers), "trackers", expected)
