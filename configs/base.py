"""Every setting, its default and what it means; the other files override what differs.

`init_from`, `init_prefix`, `seed`, `model`, `loss`, `optim`, `train`, `data`, `pose.sigma` and
`pose.hardest` decide the result: a run goes on only with the values it began with. `name`, `eval`,
`parallel`, `run`, the rest of `pose` and, of `data`, `root`, `storage`, `workers`, `eval_split`,
`test_split`, `eval_size`, `categories`, `instance_sizes` and `keypoints.detections` may change from
one start to the next.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict, FieldReference

PREPARED = "~/gsto_data"
"""Where prepared data sets lie, unless `config.data.root` says otherwise."""

Word = Callable[[ConfigDict], None] | Callable[[ConfigDict, str], None]


def get_config() -> ConfigDict:
    """GSTO-HRNet-W18-Small-v2 on data that an experiment must name."""
    config = ConfigDict()
    config.name = "base"  # of the run's folder and of the tables
    config.task = "segmentation"  # segmentation | pose
    # A .pth or .safetensors file whose weights the run starts from (docs/weights.md); empty: none.
    config.init_from = ""
    # Of the keys in that file, such as "state_dict_ema." for its averaged weights; empty: none;
    # auto: found by the network's own keys.
    config.init_prefix = "auto"
    config.seed = 0  # of the initial weights, the order of the pictures and the augmentation

    config.model = model = ConfigDict()
    model.variant = "w18_small_v2"  # the body: a key of gsto_jax.models.specs.VARIANTS or RESNETS
    model.gfm = True  # gates the fusions (paper, section 3.2.1)
    model.self_gate = True  # GFM gates each branch's own path too
    model.gate = "released"  # form of GFM's gates: released | paper (eq. 4)
    # Transition after stages 1, 2, 3: none | supervised | unsupervised | head_only (section 3.2.2).
    model.gtm = ("none", "supervised", "supervised")
    model.gtm_form = "released"  # released: gates the lowest branch | paper: the concatenation
    model.context = "none"  # on a ResNet: ppm | aspp (Table 6); none: an HRNet
    # Gates of the context module: none | supervised | unsupervised | head_only.
    model.context_gsto = "none"
    model.attention = "none"  # other gates (Table 3): none | channel | spatial ...
    model.attention_place = "block"  # ... after each: block | layer | transfer (AttentionSpec)
    model.head = "v2"  # v2: on all branches, concatenated | v1: on branch 0 (HRNet for pose)
    model.upsample = "bilinear"  # in the fusions: bilinear | nearest
    model.align_corners = False  # of every bilinear upsampling
    model.init = "hrnet"  # hrnet: N(0, 0.001) | he: He normal, fan out, for runs from scratch
    # Share of the old running statistics that a step keeps (0.01 in PyTorch's terms); step n keeps
    # (1 + n) / (10 + n) where that is less, so that short runs forget the initial values.
    model.bn_momentum = 0.99
    model.bn_statistics = "one_pass"  # one_pass | two_pass: how often BN reads a map (BatchNorm)
    model.bn_groups = 1  # parts of the batch that BN normalises apart; as many as chips: no waiting
    model.remat = False  # keeps less for the gradient, and computes it again
    model.implementation = "auto"  # of gates and losses: auto | xla | pallas_tpu | pallas_gpu
    model.pack = True  # on TPUs: neighbouring pixels share the lanes that few channels leave empty
    model.dtype = "float32"  # compute dtype: float32 | bfloat16 | float64 (needs JAX_ENABLE_X64)

    config.loss = loss = ConfigDict()
    loss.kind = "ce"  # of the last head: ce | ohem (hard pixels only)
    loss.stage_weights = (0.2, 0.3, 0.5, 1.0)  # of the heads after stages 1 to 4
    loss.context_weight = 0.4  # of the predictor in a context module
    loss.class_weights = False  # weighs pixels by data.class_weights
    loss.ohem_threshold = 0.9  # ohem: a pixel is hard below this probability of its class ...
    loss.ohem_kept = 43691  # ... or among so many hardest, an image (131072 for three)

    config.optim = optim = ConfigDict()
    optim.kind = "sgd"  # sgd | adam (with PyTorch's other settings)
    optim.schedule = "poly"  # of the rate: poly | steps
    optim.learning_rate = 0.01  # of step 0
    optim.momentum = 0.9
    optim.weight_decay = 5e-4  # on every parameter, BN and biases included
    optim.milestones = ()  # steps: at each of these shares of the run ...
    optim.decay = 0.1  # ... the rate is multiplied by this
    optim.poly_power = 0.9  # poly: rate = learning_rate * (1 - step / steps) ** poly_power
    optim.lr_lag = False  # step n at the rate of step n - 1, as the published training loop does
    optim.warmup_fraction = 0.0  # of the steps, in which the rate rises linearly ...
    optim.warmup_start = 0.1  # ... from this share of it
    optim.ema_decay = 0.0  # of averaged parameters, which evaluation then uses; 0: none

    config.train = train = ConfigDict()
    train.batch_size = 12  # over all devices and hosts
    # Passes a batch in so many parts; BN normalises each by itself, OHEM has a threshold for each.
    train.accumulate = 1
    train.steps = 0  # length of the run; 0: by epochs
    train.epochs = 0  # of floor(pictures / batch_size) steps each; 0: by steps

    config.eval = evaluation = ConfigDict()
    evaluation.batch_size = 1  # over all devices, rounded up to divide; of one canvas
    evaluation.scales = (1.0,)  # the scores at all of them are summed
    evaluation.flip = False  # averages the logits with those of the mirror image
    # whole: the picture in one look | slide: windows of `crop` | slide_enlarged: above scale 1
    evaluation.window = "whole"
    evaluation.crop = (0, 0)  # height, width of a sliding window; (0, 0): data.crop
    evaluation.stride = 2 / 3  # of the windows, as a share of the crop
    evaluation.edge = "pad"  # the last windows: pad (stick out) | shift (move inside)
    # What lies outside the image: edge (its outermost pixels, repeated) | mean | black.
    evaluation.pad = "edge"
    # Images scored whole are padded right and below to multiples of so many pixels, and their
    # scores cut back; 32 scores best, larger ones let more sizes share a program
    # (docs/evaluation.md). "published": images as they are, as in the published code.
    evaluation.pad_to = FieldReference(32, field_type=object)
    evaluation.score = "exp"  # what is summed: exp of the logits, as published | softmax
    evaluation.absent = "exclude"  # class without truth and prediction: exclude | zero (as 0)
    evaluation.pictures = -1  # how many samples become PNGs; -1: all
    # How many samples show branches and gates too, of one look at the whole picture (Figure 1);
    # -1: all. None where windows slide.
    evaluation.figures = 2

    config.pose = pose = ConfigDict()
    pose.sigma = 3.0  # of the joints' Gaussians, in pixels of the heatmap
    pose.hardest = 0  # only so many joints of a person count in the loss, the worst; 0: all
    # Where a joint lies: none (the largest pixel) | quarter (and a quarter pixel towards its larger
    # neighbour, as published) | dark (the peak of a fitted Gaussian).
    pose.refinement = "quarter"
    pose.flip_shift = True  # eval.flip: moves the mirror image's heatmap by a pixel, as published
    pose.visible = 0.2  # joints below this score count nothing in a pose's score
    pose.suppression = "hard"  # of poses that are alike: hard (OKS-NMS) | soft | none
    pose.similarity = 0.9  # OKS above which two poses are the same person's

    config.data = data = ConfigDict()
    data.source = "folder"  # scenes: drawn on the fly | folder: image files | tfds: prepared
    data.root = ""  # folder: directory of the data set; tfds: directory of prepared data sets
    data.name = ""  # tfds: which of them
    data.storage = "files"  # when preparing: files (as downloaded) | tiles (decode only the crop)
    data.list_file = ""  # folder: "{split}.txt" of lines "image label"; empty: the two below
    data.images = ""  # folder: directory of the images, such as "leftImg8bit/{split}"
    data.labels = ""  # folder: directory of the label PNGs
    data.image_suffix = ""  # folder: an image's name less this; empty: any image format's ...
    data.label_suffix = ""  # ... plus this is its label's; likewise
    # How image files become RGB (docs/data.md), in training, tests and predictions alike.
    data.alpha = "white"  # behind transparent pixels: white | black; drop: their hidden color
    data.orientation = "upright"  # upright: turned as EXIF says | stored: as the file's rows are
    data.bit_depth = 0  # bits that 16-bit files really use, such as 10 or 12; 0: their own range
    data.train_split = "train"  # what {split} stands for in training
    data.eval_split = "val"  # and in evaluation
    data.test_split = "test"  # and in submissions
    # How many pictures to draw; folder: the first so many, 0: all; persons: those of the first
    # pictures that hold so many.
    data.train_size = 0
    data.eval_size = 0  # the same of the evaluation split
    data.image_size = (0, 0)  # scenes: height, width
    data.classes = ()  # names, in the order of the train ids
    data.palette = ()  # their RGB colours; empty: distinct ones
    data.id_map = ()  # pairs (id in the file, train id or ignore_label); empty: as in the file
    data.class_weights = ()  # one for each class, for loss.class_weights
    data.categories = ()  # the group of each class, for the IoU of groups
    data.instance_sizes = ()  # average pixels of an instance, 0 for classes without, for iIoU
    data.ignore_label = 255  # train id of pixels that do not count
    data.crop = (512, 1024)  # height, width of a training sample
    data.base_size = 0  # long side at scale 1, in tests too; 0: the picture's own
    data.fixed_size = (0, 0)  # height, width at scale 1 whatever the proportions; (0, 0): none
    data.scale_min = 0.5  # scales are scale_min + k * scale_step ...
    data.scale_step = 0.1
    data.scale_count = 17  # ... with k below this
    data.flip = True  # mirrors half of the training samples
    data.flip_pairs = ()  # train ids that change places in a mirrored picture
    data.mean = (0.485, 0.456, 0.406)  # of RGB in 0..1; ImageNet's
    data.std = (0.229, 0.224, 0.225)
    data.workers = 0  # processes that prepare training samples; 0: threads

    data.keypoints = keypoints = ConfigDict()
    keypoints.names = ()  # of the joints; none: not a pose data set
    keypoints.flip_pairs = ()  # joints that change places in a mirrored picture
    keypoints.skeleton = ()  # pairs of joints to draw a line between
    keypoints.sigmas = ()  # deviations of the object keypoint similarity
    keypoints.padding = 1.25  # how much larger than a person's box the picture cut out is
    keypoints.rotation = 45.0  # training pictures turn by at most so many degrees ...
    keypoints.scale = 0.35  # ... and change their size by at most this share
    keypoints.detections = ""  # JSON of boxes to evaluate on; empty: the true boxes
    # Name or id of the category in COCO files; empty: the only one with keypoints, or "person".
    keypoints.category = ""

    config.parallel = parallel = ConfigDict()
    # Devices that share a picture, each a part of its height (docs/distributed.md).
    parallel.space = 1
    parallel.shard_parameters = False  # each device keeps a part of parameters and optimiser state

    config.run = run = ConfigDict()
    run.log_every = 20  # steps between two lines of progress
    run.checkpoint_every = 200  # steps between two checkpoints
    run.keep_checkpoints = 3  # the newest so many, and the best one evaluated
    run.eval_every = 0  # steps between two evaluations; 0: only at the end
    run.stop_at = 0  # this start ends after that step, and the next goes on; 0: at the end
    run.profile_start = 0  # step from which a profile is recorded; 0: only on SIGUSR1
    run.profile_steps = 5  # how many steps a profile holds (docs/observability.md)
    run.stall_seconds = 60.0  # a step that waits longer says for what; 0: none does
    run.tensorboard = True  # writes metrics and pictures for TensorBoard (imports TensorFlow)
    run.compilation_cache = "~/.cache/gsto_jax/xla"  # compiled programs; empty: keeps none
    return config.lock()


def set_baseline(config: ConfigDict) -> None:
    """Takes all gates and their heads away: plain HRNetV2, for pose HRNet, or a plain module."""
    config.name += "-baseline"
    if config.task == "pose":
        config.model.head, config.model.upsample = "v1", "nearest"
    config.model.gfm = False
    config.model.gtm = ("none", "none", "none")
    config.model.context_gsto = "none"
    config.model.attention = "none"


def finish(
    config: ConfigDict, arg: str | None, words: Mapping[str, Word] | None = None
) -> ConfigDict:
    """Applies what stands behind the colon of `--config=FILE:ARG`.

    Args:
      config: the experiment's settings.
      arg: comma-separated words: `baseline` (plain HRNetV2), `batch=N` (another batch, see
        `set_batch`), `ms` (test at several scales, mirrored too), `slide` (test by windows),
        `runlocal` (a few small steps).
      words: more of them; one that ends in "=" takes what follows as its second argument.

    Raises:
      ValueError: an unknown word, or a value that it cannot take.
    """
    known: dict[str, Word] = {"baseline": set_baseline, "batch=": _set_batch}
    known |= {"ms": set_multi_scale, "slide": set_slide, "runlocal": set_runlocal}
    known |= words or {}
    for word in filter(None, (arg or "").split(",")):
        name, equals, value = word.partition("=")
        change = known.get(name + equals)
        if change is None:
            shown = ", ".join(f"{word}..." if word.endswith("=") else word for word in known)
            raise ValueError(f"unknown config argument ':{word}': use {shown}")
        change(config, value) if equals else change(config)  # type: ignore[call-arg]
    return config


def set_prepared(config: ConfigDict, name: str) -> None:
    """Reads a data set that `--mode=prepare` made."""
    config.data.source = "tfds"
    config.data.root = PREPARED
    config.data.name = name


def _set_batch(config: ConfigDict, value: str) -> None:
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f":batch={value}: give a positive number")
    set_batch(config, int(value))


def set_batch(config: ConfigDict, batch_size: int) -> None:
    """Trains on the same number of pictures in batches of another size.

    The linear rule: the learning rate changes as the batch does. A larger one warms up from the
    original rate over the first 5 % of the steps.
    """
    ratio = batch_size / config.train.batch_size
    config.name += f"-batch{batch_size}"
    if config.train.steps:
        config.train.steps = max(1, round(config.train.steps / ratio))
    config.train.batch_size = batch_size
    config.optim.learning_rate *= ratio
    config.optim.warmup_fraction = 0.05 if ratio > 1 else 0.0
    config.optim.warmup_start = min(1 / ratio, 1.0)


def set_published(config: ConfigDict) -> None:
    """Tests images as they are, whatever their sizes, as the published code does."""
    config.eval.pad_to, config.eval.pad = "published", "mean"


def set_multi_scale(config: ConfigDict) -> None:
    """Tests at the paper's scales (section 4.3), each mirrored too."""
    config.eval.scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    config.eval.flip = True


def set_slide(config: ConfigDict) -> None:
    """Tests by windows of the size of training, with overlap."""
    config.eval.window, config.eval.crop = "slide", (0, 0)
    config.eval.stride, config.eval.edge = 2 / 3, "pad"


def set_runlocal(config: ConfigDict) -> None:
    """Makes the run short and small, to see that it works."""
    config.name += "-runlocal"
    config.train.batch_size = 2
    config.train.steps, config.train.epochs = 4, 0
    config.data.crop = tuple(min(side, 128) for side in config.data.crop)
    config.eval.crop = tuple(min(side, 128) for side in config.eval.crop)
    config.data.base_size = min(config.data.base_size, 256)
    config.data.fixed_size = tuple(min(side, 256) for side in config.data.fixed_size)
    config.data.train_size = 8
    config.data.eval_size = 4
    config.run.log_every = 1
    config.run.tensorboard = False
