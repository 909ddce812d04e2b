"""Config options of training, evaluation and the run."""

from dataclasses import dataclass

from gsto_jax.config.fields import OPTIMIZER, RUNTIME, Section, setting

_PAD_TO = range(4, 4097, 4)  # logits have a quarter of the resolution at least
_PAD_TO_REMEDY = "give a number of pixels that 4 divides, such as 32, up to 4096, or 'published'"


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section, place="loss", role=OPTIMIZER):
    """The loss of the heads. See `gsto_jax.losses`."""

    kind: str = setting(
        "ce",
        "Loss of the last head",
        choices={"ce": "cross entropy", "ohem": "cross entropy of hard pixels only"},
    )
    stage_weights: tuple[float, float, float, float] = setting(
        (0.2, 0.3, 0.5, 1.0), "Weights of the heads after stages 1 to 4", ge=0
    )
    context_weight: float = setting(0.4, "Weight of the predictor in a context module", ge=0)
    class_weights: bool = setting(False, "Weights pixels by data.class_weights")
    ohem_threshold: float = setting(
        0.9, "ohem: a pixel is hard below this probability of its class ...", ge=0, le=1
    )
    ohem_kept: int = setting(
        43691, "... or among so many hardest pixels of an image (131072 for three)", ge=0
    )

    def check(self) -> None:
        """Raises UserError for a last head without weight."""
        remedy = "use four weights, none negative, the last one positive"
        self.require(self.stage_weights[-1] > 0, "stage_weights", remedy)

    @property
    def by_stage(self) -> dict[str, float]:
        """Weight by "stage1" to "stage4", and "context"."""
        stages = {f"stage{n}": weight for n, weight in enumerate(self.stage_weights, 1)}
        return stages | {"context": self.context_weight}


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Section, place="optim", role=OPTIMIZER):
    """The optimizer and its schedule. See `gsto_jax.training.optim`."""

    kind: str = setting("sgd", "Optimizer, with PyTorch's other settings", choices=("sgd", "adam"))
    schedule: str = setting("poly", "Schedule of the learning rate", choices=("poly", "steps"))
    learning_rate: float = setting(0.01, "Learning rate of step 0", gt=0)
    momentum: float = setting(0.9, "Momentum of SGD", ge=0, lt=1)
    weight_decay: float = setting(5e-4, "Of every parameter, BN and biases included", ge=0)
    milestones: tuple[float, ...] = setting(
        (),
        "steps: at each of these shares of the run ...",
        gt=0,
        lt=1,
        wanted="use shares of the run between 0 and 1, ascending",
    )
    decay: float = setting(0.1, "... the rate is multiplied by this", gt=0, le=1)
    poly_power: float = setting(
        0.9, "poly: rate = learning_rate * (1 - step / steps) ** poly_power", gt=0
    )
    lr_lag: bool = setting(
        False, "Step n at the rate of step n - 1, as the published training loop does"
    )
    warmup_fraction: float = setting(
        0.0, "Share of the steps in which the rate rises linearly ...", ge=0, le=1
    )
    warmup_start: float = setting(0.1, "... from this share of it", ge=0, le=1)
    ema_decay: float = setting(
        0.0, "Decay of averaged parameters, which evaluation then uses; 0: none", ge=0, lt=1
    )

    def check(self) -> None:
        """Raises UserError for milestones that do not ascend."""
        ascend = list(self.milestones) == sorted(self.milestones)
        self.require(ascend, "milestones", "use shares of the run between 0 and 1, ascending")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section, place="train", role=OPTIMIZER):
    """The length of the run and its batches."""

    batch_size: int = setting(12, "Images of a step, over all devices and hosts", ge=1)
    accumulate: int = setting(
        1,
        "Parts in which a batch passes; BN normalizes each by itself, OHEM has a threshold for "
        "each",
        ge=1,
    )
    steps: int = setting(0, "Length of the run; 0: by epochs", ge=0)
    epochs: int = setting(
        0, "Length in epochs of floor(images / batch_size) steps; 0: by steps", ge=0
    )

    def check(self) -> None:
        """Raises UserError unless exactly one of steps and epochs is set, and the parts divide."""
        remedy = f"use a divisor of train.batch_size, {self.batch_size}"
        self.require(self.batch_size % self.accumulate == 0, "accumulate", remedy)
        remedy = f"with config.train.epochs {self.epochs}, set one of them, and the other to 0"
        self.require((self.steps > 0) != (self.epochs > 0), "steps", remedy)

    def total_steps(self, images: int) -> int:
        """Returns the steps of the run for a number of images: an epoch drops its remainder."""
        return self.steps or self.epochs * (images // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Section, place="eval", role=RUNTIME):
    """Evaluation and its images. See `gsto_jax.segmentation.protocol.EvalProtocol`."""

    batch_size: int = setting(
        1, "Over all devices, rounded up to divide; of one padded shape", ge=1
    )
    scales: tuple[float, ...] = setting((1.0,), "The scores at all scales are summed")
    flip: bool = setting(False, "Averages the logits with those of the mirror image")
    window: str = setting(
        "whole",
        "Crops that the network sees",
        choices={
            "whole": "the image in one",
            "slide": "windows of eval.crop",
            "slide_upsampled": "windows above scale 1",
        },
    )
    crop: tuple[int, int] = setting(
        (0, 0), "Height and width of a sliding window; (0, 0): data.crop"
    )
    stride: float = setting(2 / 3, "Stride of the windows, as a share of the crop")
    edge: str = setting(
        "pad",
        "The last windows",
        choices={"pad": "stick out", "shift": "move inside"},
    )
    pad: str = setting(
        "edge",
        "What lies outside the image",
        choices={
            "edge": "its outermost pixels, repeated",
            "mean": "the mean color",
            "black": "black pixels",
        },
    )
    pad_to: int | str = setting(
        32,
        "Images scored whole are padded right and below to multiples of so many pixels, and their "
        "scores cut back; 32 scores best, larger ones let more sizes share a program "
        "(docs/evaluation.md); 'published': images as they are, as in the published code",
        wanted=_PAD_TO_REMEDY,
    )
    score: str = setting(
        "exp",
        "Scores that are summed",
        choices={"exp": "exp of the logits, as published", "softmax": "probabilities"},
    )
    absent: str = setting(
        "exclude",
        "A class without truth and prediction",
        choices={"exclude": "does not count", "zero": "counts as 0"},
    )
    sample_images: int = setting(-1, "How many samples become PNGs; -1: all", ge=-1)
    feature_images: int = setting(
        2,
        "How many samples show branches and gates of the whole image too (Figure 1); -1: all; none "
        "where windows slide",
        ge=-1,
    )

    def check(self) -> None:
        """Raises UserError for a multiple that images cannot be padded to."""
        multiple = type(self.pad_to) is int and self.pad_to in _PAD_TO
        self.require(multiple or self.pad_to == "published", "pad_to", _PAD_TO_REMEDY)


@dataclass(frozen=True, kw_only=True)
class PoseConfig(Section, place="pose", role=RUNTIME):
    """Heatmaps and the poses that become of them. See `gsto_jax.pose`."""

    sigma: float = setting(
        3.0, "Deviation of the joints' Gaussians, in pixels of the heatmap", gt=0, role=OPTIMIZER
    )
    hardest: int = setting(
        0,
        "Only so many joints of a person count in the loss, the worst; 0: all",
        ge=0,
        role=OPTIMIZER,
    )
    refinement: str = setting(
        "quarter",
        "Position of a joint",
        choices={
            "none": "the largest pixel",
            "quarter": "a quarter pixel towards its larger neighbor, as published",
            "dark": "the peak of a fitted Gaussian",
        },
    )
    flip_shift: bool = setting(
        True, "eval.flip: moves the mirror image's heatmap by a pixel, as published"
    )
    visible: float = setting(
        0.2, "Joints below this score count nothing in a pose's score", ge=0, lt=1
    )
    suppression: str = setting(
        "hard",
        "Suppression of poses that are alike",
        choices={"hard": "OKS-NMS", "soft": "soft OKS-NMS", "none": "none"},
    )
    similarity: float = setting(0.9, "OKS above which two poses are the same person's", gt=0, le=1)


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(Section, place="parallel", role=RUNTIME):
    """How the work is divided over the devices. See `gsto_jax.devices.mesh`."""

    space: int = setting(
        1, "Devices that share an image, each a part of its height (docs/distributed.md)", ge=1
    )
    shard_parameters: bool = setting(
        False, "Each device keeps a shard of parameters and optimizer state"
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section, place="run", role=RUNTIME):
    """Options that change nothing in the result."""

    log_every: int = setting(20, "Steps between two lines of progress", ge=1)
    checkpoint_every: int = setting(200, "Steps between two checkpoints", ge=1)
    keep_checkpoints: int = setting(3, "The newest so many are kept, and the best one", ge=1)
    eval_every: int = setting(0, "Steps between two evaluations; 0: only at the end", ge=0)
    stop_at: int = setting(
        0, "This start ends after that step, and the next goes on; 0: at the end", ge=0
    )
    profile_start: int = setting(
        0, "Step from which a profile is recorded; 0: only on SIGUSR1", ge=0
    )
    profile_steps: int = setting(5, "Steps of a profile (docs/observability.md)", ge=1)
    stall_seconds: float = setting(
        60.0, "A step that waits longer logs for what; 0: none does", ge=0
    )
    tensorboard: bool = setting(
        True, "Writes metrics and images for TensorBoard (imports TensorFlow)"
    )
    compilation_cache: str = setting(
        "~/.cache/gsto_jax/xla", "Folder of compiled programs; empty: keeps none"
    )
