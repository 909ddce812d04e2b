"""Comparison of an export with its checkpoint, in processes that know nothing of this package."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from gsto_jax import progress
from gsto_jax.errors import UserError
from gsto_jax.files import read_json_object
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import make_program, single_pass_protocol
from gsto_jax.types import Size

MIN_LABEL_AGREEMENT = {"float32": 0.999, "bfloat16": 0.95}
MAX_LOGITS_ERROR = {"float32": 1e-3, "bfloat16": 0.1}
"""By dtype of the network: what `verify` lets pass, see `ExportCheck`.

With free sizes the weights of a resampling are computed at run time, in float32: where sides do not
halve exactly, a network that was hardly trained makes 1e-4 of their rounding.
"""

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class ExportCheck:
    """How an artifact compares with its checkpoint on one batch.

    Attributes:
      file: its name.
      shape: (b, h, w) of the batch.
      equal: share of labels that are those of `Predictor`.
      difference: largest difference of the logits over the largest logit.
    """

    file: str
    shape: tuple[int, int, int]
    equal: float
    difference: float

    def __str__(self) -> str:
        """In words, for people."""
        b, h, w = self.shape
        return (
            f"{self.file}: {b} of {h}x{w}, {self.equal:.4%} of the labels equal, logits within "
            f"{self.difference:.1e} of the largest"
        )


def verify(
    predictor: Predictor, folder: str | Path, batches: Sequence[np.ndarray] | None = None
) -> list[ExportCheck]:
    """Compares an export with its checkpoint: each artifact in a fresh process, on the CPU.

    That process imports NumPy, and JAX or onnxruntime, nothing of this package. The checkpoint
    should be on a CPU too: accelerators compute convolutions less exactly.

    Args:
      predictor: of the checkpoint.
      folder: of the export.
      batches: images `b h w 3` uint8; None: random ones, of odd sizes and above the limit too.

    Raises:
      UserError: there is no export, it is of another checkpoint, a process failed, or an artifact
        differs by more than `MIN_LABEL_AGREEMENT` and `MAX_LOGITS_ERROR` allow.
    """
    folder = Path(folder).expanduser()
    source, names, fixed = read_description(folder)
    if source != str(predictor.path):
        raise UserError(f"{folder} is an export of {source}: export it anew")
    if batches is None:
        # Whole multiples, odd sizes, and above the limit.
        above = round(1.3 * predictor.long_side)
        shapes = [(1, 64, 96), (3, 97, 71), (1, above, above * 3 // 4 + 1)]
        batches = random_batches(shapes if above else shapes[:2])
    expected = _expected(predictor, batches)
    checks = []
    for name in names:
        chosen, ours = batches, expected
        if name == "model.onnx" and fixed:
            chosen = random_batches([(2, *fixed)])
            ours = _expected(predictor, chosen)
        with progress.track(f"running {name} in a process of its own", always_log=True):
            theirs = _fresh(folder / name, chosen)
        checks += [_compare(name, *pair) for pair in zip(ours, theirs, strict=True)]
    dtype = predictor.task.config.model.dtype
    for check in checks:
        # Written so that a difference that is no number does not pass.
        if not (
            check.equal >= MIN_LABEL_AGREEMENT[dtype]
            and check.difference <= MAX_LOGITS_ERROR[dtype]
        ):
            raise UserError(
                f"the export in {folder} differs from its checkpoint; {check}, but "
                f"{MIN_LABEL_AGREEMENT[dtype]:.1%} and {MAX_LOGITS_ERROR[dtype]:.0e} are allowed. "
                "Do not use it"
            )
    return checks


def _compare(file: str, ours: Outputs, theirs: Outputs) -> ExportCheck:
    logits, (b, h, w) = ours["logits"], ours["labels"].shape
    equal = float((ours["labels"] == theirs["labels"]).mean())
    difference = float(np.abs(logits - theirs["logits"]).max() / np.abs(logits).max())
    return ExportCheck(file, (b, h, w), equal, difference)


def read_description(folder: Path) -> tuple[str, list[str], Size | None]:
    """Returns the checkpoint of an export, its artifacts, and the only (h, w) of ONNX, if any.

    Raises:
      UserError: there is no export, or its `model.json` is damaged.
    """
    try:
        described = read_json_object(folder / "model.json") or {}
        names, fixed = list(described["files"]), described["onnx_size"]
        if not names or not set(names) <= set(_READERS):
            raise ValueError(f"it names {names}")
        if fixed is None:
            return str(described["checkpoint"]), names, None
        height, width = map(int, fixed)
        if min(height, width) < 1:
            raise ValueError(f"its size is {fixed}")
        return str(described["checkpoint"]), names, (height, width)
    except (ValueError, LookupError, TypeError, OverflowError):
        raise UserError(f"{folder} holds no export: model.json is missing or damaged") from None


def random_batches(shapes: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
    """Returns random images `b h w 3` uint8 of patches, for (b, h, w) each."""
    rng, patch = np.random.default_rng(0), 8
    batches = []
    for b, h, w in shapes:
        coarse = rng.integers(0, 256, (b, -(-h // patch), -(-w // patch), 3), np.uint8)
        batches.append(coarse.repeat(patch, 1).repeat(patch, 2)[:, :h, :w])
    return batches


def _expected(predictor: Predictor, batches: Sequence[np.ndarray]) -> list[Outputs]:
    """Computes labels as `--mode=predict` does with one pass an image, and logits."""
    once = replace(predictor, protocol=single_pass_protocol(predictor.protocol))
    program, outputs = jax.jit(make_program(predictor)), []
    with progress.track("predicting random images", len(batches)) as advance:
        for batch in batches:
            labels = np.stack([once(image).labels for image in batch])
            outputs.append({"labels": labels, "logits": np.asarray(program(batch)["logits"])})
            advance()
    return outputs


_READERS = {
    "model.jax": """
from jax import export, jit
call = jit(export.deserialize(bytearray(model)).call)
""",
    "model.onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
call = lambda image: dict(zip(["labels", "logits"], session.run(["labels", "logits"], {"image": image})))
""",  # noqa: E501
}
_RUN = """
import sys
sys.modules["gsto_jax"] = None  # it must do without
import numpy as np
model = open(sys.argv[1], "rb").read()
{reader}
outputs = {{}}
for name, batch in np.load(sys.argv[2]).items():
    outputs |= {{f"{{name}}/{{key}}": np.asarray(value) for key, value in call(batch).items()}}
np.savez(sys.argv[3], **outputs)
"""


def _fresh(path: Path, batches: Sequence[np.ndarray]) -> list[Outputs]:
    """Returns the outputs of an artifact for batches, in a process of its own."""
    code = _RUN.format(reader=_READERS[path.name])
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(inputs, *batches)
        command = [sys.executable, "-I", "-c", code, *map(str, (path, inputs, outputs))]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{path} does not run in a process of its own: {reason}")
        with np.load(outputs) as values:
            names = ("labels", "logits")
            return [{k: values[f"arr_{n}/{k}"] for k in names} for n in range(len(batches))]
