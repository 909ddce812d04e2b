"""Trains the same network in PyTorch, from the same initial weights and on the same batches.

    python benchmarks/torch_peer.py --config=configs/camvid_w18s.py[:baseline] --config.data.root=D

A baseline for speed and accuracy: convolution, BN, loss, gradient, SGD and evaluation are
PyTorch's, so that a run separates the effect of the training code from that of initial weights and
batches. `--init=torch` initializes the weights as PyTorch does; `--data=usual` resizes whole images
with OpenCV and crops them, with its own random generator. Needs PyTorch and the `train` extra; the
project does not install PyTorch. Prints losses, seconds per step and the final scores, and appends
the scores to the CSV of `--csv=FILE`.
"""

import csv
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from absl import app, flags, logging
from flax.traverse_util import flatten_dict
from ml_collections import config_flags

from data_pipelines import DataConfig, EvalBatches, make_source, train_batches
from data_pipelines.pipeline import augmentation
from gsto_jax.config import Config
from gsto_jax.models.initialize import initial_variables
from gsto_jax.segmentation.metrics import compute_scores
from gsto_jax.training.network import build_network

CONFIG = config_flags.DEFINE_config_file("config", "configs/camvid_w18s.py", "FILE[:ARGUMENTS]")
INIT = flags.DEFINE_enum("init", "ours", ["ours", "torch"], "initializer of the weights")
DATA = flags.DEFINE_enum("data", "ours", ["ours", "usual"], "source of the batches")
CHANNELS_FIRST = flags.DEFINE_bool(
    "channels_first", False, "memory layout b c h w instead of channels last"
)
STOP = flags.DEFINE_integer(
    "stop", 0, "stop after this many steps, without scores; 0: train to the end"
)
CSV = flags.DEFINE_string("csv", None, "file to append the scores to")


class Peer:
    """HRNetV2 or GSTO-HRNet in PyTorch, with the parameter names of the Flax model."""

    def __init__(self, model: Any, variables: Any) -> None:
        self.spec, self.momentum = model.spec, 1 - model.bn_momentum
        self.params = {k: _tensor(v) for k, v in _flat(variables["params"])}
        self.stats = {k: _tensor(v) for k, v in _flat(variables["batch_stats"])}
        for value in self.params.values():
            value.requires_grad_(True)

    def initialize(self, seed: int) -> None:
        """Initializes with He normal kernels and PyTorch's default biases."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, value in self.params.items():
                if value.ndim == 4 and "/fusion/gate" in name:
                    value.normal_(0, math.sqrt(2))  # a stack of gates with one output each
                elif value.ndim == 4:
                    torch.nn.init.kaiming_normal_(value, mode="fan_out", nonlinearity="relu")
                elif name.endswith(("conv/bias", "classifier/bias")):
                    fan_in = self.params[name[: -len("bias")] + "kernel"][0].numel()
                    value.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def __call__(self, x: torch.Tensor, train: bool) -> tuple[torch.Tensor, dict[str, Any]]:
        """Returns the logits at stride 4, and those of the earlier heads by stage."""
        x = self._cb(self._cb(x, "stem1", train, 2), "stem2", train, 2)
        for n in range(self.spec.stage1_blocks):
            x = self._bottleneck(x, f"stage1_block{n}", train)
        branches, heads = [x], {}
        for stage in (2, 3, 4):
            name = f"transition{stage - 1}"
            lowest = branches[-1]
            higher = [self._keep(b, f"{name}/keep{i}", train) for i, b in enumerate(branches)]
            if f"{name}/gtm/head/conv/kernel" in self.params:
                logits = self._head(branches, f"{name}/gtm/head", train)
                heads[f"stage{stage - 1}"] = logits
                gate = logits
                for k in range(stage - 1):
                    gate = self._cb(gate, f"{name}/gtm/gate/cbr{k}", train, 2 if k else 1)
                lowest = lowest * torch.sigmoid(gate)
            branches = [*higher, self._cb(lowest, f"{name}/gtm/down", train, 2)]
            for m in range(self.spec.modules[stage - 2]):
                branches = self._module(branches, f"stage{stage}_module{m}", train)
        return self._head(branches, "head", train), heads

    def _conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        kernel = self.params[f"{name}/kernel"]
        return F.conv2d(
            x, kernel, self.params.get(f"{name}/bias"), stride, padding=kernel.shape[-1] // 2
        )

    def _bn(self, x: torch.Tensor, name: str, train: bool) -> torch.Tensor:
        mean, var = self.stats[f"{name}/mean"], self.stats[f"{name}/var"]
        scale, bias = self.params[f"{name}/scale"], self.params[f"{name}/bias"]
        return F.batch_norm(x, mean, var, scale, bias, train, self.momentum, 1e-5)

    def _cb(
        self, x: torch.Tensor, name: str, train: bool, stride: int = 1, relu: bool = True
    ) -> torch.Tensor:
        x = self._bn(self._conv(x, f"{name}/conv", stride), f"{name}/bn", train)
        return F.relu(x) if relu else x

    def _keep(self, x: torch.Tensor, name: str, train: bool) -> torch.Tensor:
        return self._cb(x, name, train) if f"{name}/conv/kernel" in self.params else x

    def _basic(self, x: torch.Tensor, name: str, train: bool) -> torch.Tensor:
        y = F.relu(self._bn(self._conv(x, f"{name}/conv1"), f"{name}/bn1", train))
        return F.relu(x + self._bn(self._conv(y, f"{name}/conv2"), f"{name}/bn2", train))

    def _bottleneck(self, x: torch.Tensor, name: str, train: bool) -> torch.Tensor:
        y = x
        for n in (1, 2, 3):
            y = self._bn(self._conv(y, f"{name}/conv{n}"), f"{name}/bn{n}", train)
            y = F.relu(y) if n < 3 else y
        if f"{name}/downsample/conv/kernel" in self.params:
            x = self._cb(x, f"{name}/downsample", train, relu=False)
        return F.relu(x + y)

    def _module(self, branches: list[Any], name: str, train: bool) -> list[Any]:
        count, deeper, gates = len(branches), [], []
        for j, x in enumerate(branches):
            for n in range(self.spec.blocks):
                x = self._basic(x, f"{name}/branch{j}_block{n}", train)
            deeper.append(x)
            if f"{name}/fusion/gate{j}/conv/kernel" in self.params:
                gates.append(torch.sigmoid(self._cb(x, f"{name}/fusion/gate{j}", train)))
        fused = []
        for i in range(count):
            total: Any = 0
            for j in range(count):
                y = deeper[j] * gates[j][:, i : i + 1] if gates else deeper[j]
                path = f"{name}/fusion/path{j}_to{i}"
                if j > i:
                    y = _resize(self._cb(y, path, train, relu=False), deeper[i].shape[2:])
                for k in range(i - j):
                    y = self._cb(y, f"{path}/step{k}", train, 2, relu=k < i - j - 1)
                total = total + y
            fused.append(F.relu(total))
        return fused

    def _head(self, branches: list[Any], name: str, train: bool) -> torch.Tensor:
        size = branches[0].shape[2:]
        x = torch.cat([branches[0], *(_resize(b, size) for b in branches[1:])], 1)
        x = F.relu(self._bn(self._conv(x, f"{name}/conv"), f"{name}/bn", train))
        return self._conv(x, f"{name}/classifier")


def _flat(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    return ((k, np.asarray(v)) for k, v in flatten_dict(tree, sep="/").items())


def _tensor(value: np.ndarray) -> torch.Tensor:
    """Converts an array; transposes kernels from `h w i o` to `o i h w`."""
    return torch.tensor(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value).contiguous()


def _resize(x: torch.Tensor, size: Any) -> torch.Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def usual_batches(data: DataConfig, source: Any, batch_size: int, seed: int) -> Iterator[Any]:
    """Yields batches made with OpenCV from cached images: resize, flip, crop."""
    rng, cache = np.random.default_rng(1000 + seed), {}
    augment = augmentation(data)
    while True:
        order = rng.permutation(len(source))
        for start in range(0, len(source) - batch_size + 1, batch_size):
            rows = []
            for index in order[start : start + batch_size].tolist():
                if index not in cache:
                    element = source[index]
                    cache[index] = np.asarray(element["image"]), np.asarray(element["label"])
                image, label = cache[index]
                crop = augment.sample(label.shape, rng)
                image = cv2.resize(image, (crop.width, crop.height))
                label = cv2.resize(
                    label, (crop.width, crop.height), interpolation=cv2.INTER_NEAREST
                )
                if crop.flip:
                    image, label = image[:, ::-1], label[:, ::-1]
                size = crop.valid_size(data.crop)
                window = tuple(
                    slice(at, at + side)
                    for at, side in zip((crop.top, crop.left), size, strict=True)
                )
                padding = [(0, total - side) for total, side in zip(data.crop, size, strict=True)]
                rows.append(
                    {
                        "image": np.pad(image[window], [*padding, (0, 0)]),
                        "label": np.pad(label[window], padding, constant_values=data.ignore_label),
                        "size": np.array(size),
                    }
                )
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def normalize(data: DataConfig, images: np.ndarray, sizes: np.ndarray) -> torch.Tensor:
    """Normalizes images to `b 3 h w`; padding is 0."""
    x = (torch.tensor(images).float() / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
    for n, (height, width) in enumerate(sizes.tolist()):
        x[n, height:] = 0
        x[n, :, width:] = 0
    x = x.permute(0, 3, 1, 2)
    return x.contiguous() if CHANNELS_FIRST.value else x


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, ignore: int) -> torch.Tensor:
    """Returns the cross-entropy of logits resized to the label maps."""
    return F.cross_entropy(_resize(logits, labels.shape[1:]), labels, ignore_index=ignore)


def supervised_loss(
    logits: torch.Tensor, heads: dict[str, Any], labels: torch.Tensor, weights: Any, ignore: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the weighted loss of all heads, and the loss of the last one."""
    last = cross_entropy(logits, labels, ignore)
    auxiliary = (weights[k] * cross_entropy(head, labels, ignore) for k, head in heads.items())
    return last + sum(auxiliary), last


def check_settings(config: Config) -> None:
    """Exits if an option is not implemented here."""
    model, hrnet, optim = config.model, config.model.hrnet, config.optim
    is_supported = (
        set(hrnet.gtm) <= {"none", "supervised"}
        and (hrnet.gfm_style, hrnet.gtm_style, hrnet.upsample)
        == ("released", "released", "bilinear")
        and (hrnet.self_gate, model.align_corners, model.dtype) == (True, False, "float32")
        and config.loss.terms == config.loss.head_terms == (("ce", 1.0),)
        and (config.loss.class_weights, config.loss.label_smoothing) == (False, 0)
        and (optim.warmup_fraction, optim.lr_lag, optim.ema_decay) == (0, False, 0)
        and (config.train.grad_accum_steps, config.loss.stage_weights[-1]) == (1, 1)
    )
    if not is_supported:
        sys.exit("the PyTorch network supports only the released gates and the default options")


def main(_: list[str]) -> None:
    """Trains and evaluates."""
    logging.set_verbosity(logging.WARNING)
    values = json.loads(CONFIG.value.to_json())
    data = DataConfig(**values.pop("data"))
    config = Config.from_dict(values)
    model = build_network(config.model, len(data.classes))
    check_settings(config)
    peer = Peer(model, initial_variables(model, config.seed))
    if INIT.value == "torch":
        peer.initialize(config.seed)
    source, batch_size = make_source(data, data.train_split), config.train.batch_size
    if DATA.value == "ours":
        batches: Any = train_batches(data, source, batch_size, seed=config.seed)
    else:
        batches = usual_batches(data, source, batch_size, seed=config.seed)
    optim, steps = config.optim, config.train.total_steps(len(source))
    sgd = torch.optim.SGD(
        list(peer.params.values()),
        lr=optim.learning_rate,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
    )
    weights, times = config.loss.head_weights, []
    for step in range(STOP.value or steps):
        start_time = time.perf_counter()
        sgd.param_groups[0]["lr"] = optim.learning_rate * (1 - step / steps) ** optim.poly_power
        batch = next(batches)
        labels = torch.tensor(batch["label"].astype(np.int64))
        logits, heads = peer(normalize(data, batch["image"], batch["size"]), train=True)
        loss, last = supervised_loss(logits, heads, labels, weights, data.ignore_label)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        times.append(time.perf_counter() - start_time)
        if step < 10 or (step + 1) % config.run.log_every == 0:
            seconds = statistics.median(times[-50:])
            print(f"step {step + 1}/{steps} | {seconds:.2f} s/step | loss {loss:.6f} | {last:.6f}")
    if not STOP.value:
        report(peer, data, config, statistics.median(times))


def report(peer: Peer, data: DataConfig, config: Config, seconds_per_step: float) -> None:
    """Evaluates on full images; prints and writes the scores."""
    count = len(data.classes)
    confusion = np.zeros((count, count), np.int64)
    with torch.no_grad():
        for batch in EvalBatches(data, make_source(data, data.eval_split), config.eval.batch_size):
            logits, _ = peer(normalize(data, batch["image"], batch["size"]), train=False)
            predicted = _resize(logits, batch["label"].shape[1:]).argmax(1).numpy()
            for n in np.flatnonzero(batch["mask"]):
                labeled = batch["label"][n] < count
                cells = batch["label"][n][labeled].astype(int) * count + predicted[n][labeled]
                confusion += np.bincount(cells, minlength=count**2).reshape(count, count)
    result = compute_scores(confusion, "zero")
    run = [config.name, config.seed, INIT.value, DATA.value]
    figures = [100 * result.mean_iou, 100 * result.pixel_accuracy, *(100 * result.iou)]
    print(*run, *(f"{figure:.1f}" for figure in figures), f"{seconds_per_step:.2f} s/step")
    if CSV.value:
        path = Path(CSV.value)
        head = ["network", "seed", "init", "data", "mean_iou", "pixel_accuracy", *data.classes]
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow([*head, "seconds_per_step", "torch", "machine"])
            columns = [f"{seconds_per_step:.2f}", torch.__version__, platform.machine()]
            writer.writerow([*run, *(f"{figure:.2f}" for figure in figures), *columns])


if __name__ == "__main__":
    app.run(main)
