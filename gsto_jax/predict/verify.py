"""Verifies an export against its checkpoint, in subprocesses without this package."""

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
from gsto_jax.storage import local_copy, to_path
from gsto_jax.types import Size

MIN_LABEL_AGREEMENT = {"float32": 0.999, "bfloat16": 0.95}
MAX_LOGITS_ERROR = {"float32": 1e-3, "bfloat16": 0.1}
"""Limits of `verify` by dtype of the network; see `ExportCheck`.

With free sizes, resampling weights are computed at run time in float32; their rounding moves logits
of a barely trained network by 1e-4.
"""

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class ExportCheck:
    """Agreement of an exported model with its checkpoint on one batch.

    Attributes:
      file: name of the model.
      shape: (b, h, w) of the batch.
      label_agreement: fraction of labels equal to the labels of `Predictor`.
      logits_error: maximum absolute difference of logits over the maximum absolute logit.
    """

    file: str
    shape: tuple[int, int, int]
    label_agreement: float
    logits_error: float

    def __str__(self) -> str:
        """Returns a line for logs."""
        b, h, w = self.shape
        return (
            f"{self.file}: {b} of {h}x{w}, {self.label_agreement:.4%} of labels equal, logits "
            f"within {self.logits_error:.1e} of the maximum"
        )


def verify(
    predictor: Predictor, folder: str | Path, batches: Sequence[np.ndarray] | None = None
) -> list[ExportCheck]:
    """Compares exported models with their checkpoint, each in a subprocess on the CPU.

    The subprocess imports NumPy and JAX or onnxruntime, but not this package. The checkpoint should
    be on a CPU too, since accelerators compute convolutions less precisely.

    Args:
      predictor: predictor of the checkpoint.
      folder: folder of the export.
      batches: images `b h w c` uint8; None for random images, some of odd sizes or above the limit.

    Raises:
      UserError: no export, an export of another checkpoint, a failed subprocess, or a model beyond
        `MIN_LABEL_AGREEMENT` or `MAX_LOGITS_ERROR`.
    """
    folder = to_path(folder, "folder")
    source, names, fixed = read_description(folder)
    if source != str(predictor.checkpoint):
        raise UserError(
            f"{folder} must be an export of {predictor.checkpoint}; got one of {source}"
        )
    channels = predictor.task.in_channels
    if batches is None:
        above = round(1.3 * predictor.long_side)
        shapes = [(1, 64, 96), (3, 97, 71), (1, above, above * 3 // 4 + 1)]
        batches = random_batches(shapes if above else shapes[:2], channels)
    expected = _predict(predictor, batches)
    checks = []
    for name in names:
        inputs, references = batches, expected
        if name == "model.onnx" and fixed:
            inputs = random_batches([(2, *fixed)], channels)
            references = _predict(predictor, inputs)
        running = progress.track(f"running {name} in a subprocess", always_log=True)
        with local_copy(folder / name) as model, running:
            outputs = _run_in_subprocess(model, inputs)
        checks += [_compare(name, *pair) for pair in zip(references, outputs, strict=True)]
    dtype = predictor.task.config.model.dtype
    for check in checks:
        # `not (... <= ...)` also rejects NaN.
        if not (
            check.label_agreement >= MIN_LABEL_AGREEMENT[dtype]
            and check.logits_error <= MAX_LOGITS_ERROR[dtype]
        ):
            raise UserError(
                f"the export in {folder} differs from its checkpoint: {check}, but "
                f"{MIN_LABEL_AGREEMENT[dtype]:.1%} and {MAX_LOGITS_ERROR[dtype]:.0e} are allowed. "
                "Do not use it"
            )
    return checks


def _compare(file: str, expected: Outputs, outputs: Outputs) -> ExportCheck:
    logits, (b, h, w) = expected["logits"], expected["labels"].shape
    return ExportCheck(
        file,
        (b, h, w),
        label_agreement=float((expected["labels"] == outputs["labels"]).mean()),
        logits_error=float(np.abs(logits - outputs["logits"]).max() / np.abs(logits).max()),
    )


def read_description(folder: Path) -> tuple[str, list[str], Size | None]:
    """Returns the checkpoint of an export, its model files, and the fixed size of ONNX, if any.

    Raises:
      UserError: `model.json` is missing or damaged.
    """
    try:
        description = read_json_object(folder / "model.json") or {}
        checkpoint, size = str(description["checkpoint"]), description["onnx_size"]
        names = list(description["files"])
        if not names or not set(names) <= set(_LOADERS):
            raise ValueError(f"unknown files {names}")
        if size is None:
            return checkpoint, names, None
        height, width = map(int, size)
        if min(height, width) < 1:
            raise ValueError(f"invalid size {size}")
        return checkpoint, names, (height, width)
    except (ValueError, LookupError, TypeError, OverflowError):
        raise UserError(
            f"{folder} must be an export; its model.json is missing or damaged"
        ) from None


def random_batches(shapes: Sequence[tuple[int, int, int]], channels: int = 3) -> list[np.ndarray]:
    """Returns images `b h w c` uint8 of random patches, for each shape (b, h, w)."""
    rng, patch = np.random.default_rng(0), 8
    batches = []
    for b, h, w in shapes:
        coarse = rng.integers(0, 256, (b, -(-h // patch), -(-w // patch), channels), np.uint8)
        batches.append(coarse.repeat(patch, 1).repeat(patch, 2)[:, :h, :w])
    return batches


def _predict(predictor: Predictor, batches: Sequence[np.ndarray]) -> list[Outputs]:
    """Computes the labels and logits of the checkpoint by one pass per image."""
    single_pass = replace(predictor, protocol=single_pass_protocol(predictor.protocol))
    program, outputs = jax.jit(make_program(predictor)), []
    with progress.track("predicting random images", len(batches)) as advance:
        for batch in batches:
            labels = np.stack([single_pass(image).labels for image in batch])
            outputs.append({"labels": labels, "logits": np.asarray(program(batch)["logits"])})
            advance()
    return outputs


_LOADERS = {
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
sys.modules["gsto_jax"] = None  # any import of it fails
import numpy as np
model = open(sys.argv[1], "rb").read()
{loader}
outputs = {{}}
for name, batch in np.load(sys.argv[2]).items():
    outputs |= {{f"{{name}}/{{key}}": np.asarray(value) for key, value in call(batch).items()}}
np.savez(sys.argv[3], **outputs)
"""


def _run_in_subprocess(path: Path, batches: Sequence[np.ndarray]) -> list[Outputs]:
    """Returns the outputs of an exported model, run in a subprocess."""
    code = _RUN.format(loader=_LOADERS[path.name])
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(inputs, *batches)
        command = [sys.executable, "-I", "-c", code, *map(str, (path, inputs, outputs))]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{path} fails in a subprocess: {reason}")
        with np.load(outputs) as values:
            names = ("labels", "logits")
            return [{k: values[f"arr_{n}/{k}"] for k in names} for n in range(len(batches))]
