"""Verifies an export against its checkpoint, in subprocesses without this package."""

import json
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
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.predict.description import ExportablePredictor
from gsto_jax.predict.export import calibration_inputs
from gsto_jax.predict.onnx_precision import PRECISIONS
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.programs import MODEL_FILES, Arrays
from gsto_jax.predict.single_pass import make_program, single_pass_protocol
from gsto_jax.storage import local_copy, to_path
from gsto_jax.types import Size

MIN_AGREEMENT = {"float32": 0.999, "bfloat16": 0.95, "float16": 0.98, "int8": 0.7}
MAX_ERROR = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1, "int8": 1.0}
"""Limits of `verify` by dtype of the network or file; see `ExportCheck`.

With free sizes, resampling weights are computed at run time in float32; their rounding moves logits
of a barely trained network by 1e-4.
"""
MIN_JOINT_AGREEMENT = 0.95
"""Upper limit of `MIN_AGREEMENT` for pose: crops may differ by one of 255 levels, which moves a
joint whose heatmap has two peaks of almost equal height."""
MAX_CROP_ERROR = 1e-2
"""Lower limit of `MAX_ERROR` for pose and classification, for the same reason."""
JOINT_TOLERANCE = {"float32": 0.1, "bfloat16": 5.0, "float16": 5.0, "int8": 5.0}
"""Distance in pixels up to which joints count as equal."""
CLASS_TOLERANCE = {"float32": 0.02, "bfloat16": 0.2, "float16": 0.2, "int8": 0.2}
"""Two classes count as equal if their probabilities differ by less, relative to the largest."""


@dataclass(frozen=True)
class ExportCheck:
    """Agreement of an exported model with its checkpoint on one batch.

    Attributes:
      file: name of the model.
      shape: (b, h, w) of the images, or (n, h, w) of n persons in an image.
      agreement: fraction of labels equal to those of `Predictor`, of joints within
        `JOINT_TOLERANCE` of those of `PosePredictor`, or of images whose class is that of
        `ClassPredictor`, or within `CLASS_TOLERANCE` of it.
      error: maximum absolute difference over the maximum absolute value, of logits, of joints'
        scores or of probabilities.
      task: "segmentation", "pose" or "classification".
    """

    file: str
    shape: tuple[int, int, int]
    agreement: float
    error: float
    task: str = "segmentation"

    def __str__(self) -> str:
        """Returns a line for logs."""
        count, h, w = self.shape
        if self.task == "pose":
            return (
                f"{self.file}: {count} persons in {h}x{w}, {self.agreement:.2%} of joints equal, "
                f"scores within {self.error:.1e} of the maximum"
            )
        labels, scores = "labels", "logits"
        if self.task == "classification":
            labels, scores = "classes", "probabilities"
        return (
            f"{self.file}: {count} of {h}x{w}, {self.agreement:.4%} of {labels} equal, {scores} "
            f"within {self.error:.1e} of the maximum"
        )


def verify(
    predictor: ExportablePredictor,
    folder: str | Path,
    batches: Sequence[Arrays] | None = None,
    images: Sequence[np.ndarray] = (),
) -> list[ExportCheck]:
    """Compares exported models with their checkpoint, each in a subprocess on the CPU.

    The subprocess imports NumPy and JAX or onnxruntime, but not this package. The checkpoint should
    be on a CPU too, since accelerators compute convolutions less precisely.

    Args:
      predictor: predictor of the checkpoint.
      folder: folder of the export.
      batches: inputs by name; None for random ones, some of odd sizes or above the limit.
      images: images `h w c` uint8 for `model.int8.onnx`, like those of its calibration; empty for
        `batches`.

    Raises:
      UserError: no export, an export of another checkpoint, a failed subprocess, or a model beyond
        `MIN_AGREEMENT` or `MAX_ERROR`.
    """
    folder = to_path(folder, "folder")
    checkpoint, names, fixed = read_description(folder)
    if checkpoint != str(predictor.checkpoint):
        raise UserError(
            f"{folder} must be an export of {predictor.checkpoint}; got one of {checkpoint}"
        )
    network_dtype = predictor.task.config.model.dtype
    any_size = random_inputs(predictor, None) if batches is None else list(batches)
    references: dict[str, tuple[Sequence[Arrays], list[Arrays]]] = {}
    checks = []
    for name in names:
        dtype = next((x for x in PRECISIONS if x in name), network_dtype)
        kind: str = "any"
        inputs: Sequence[Arrays] = any_size
        if dtype == "int8" and len(images):
            kind, inputs = "images", list(calibration_inputs(predictor, images, fixed))
        elif name.endswith(".onnx") and fixed:
            kind, inputs = "fixed", random_inputs(predictor, fixed)
        if kind not in references:
            references[kind] = inputs, _predict(predictor, inputs)
        inputs, expected = references[kind]
        running = progress.track(f"running {name} in a subprocess", always_log=True)
        with local_copy(folder / name) as model, running:
            outputs = _run_in_subprocess(model, inputs)
        for batch, reference, output in zip(inputs, expected, outputs, strict=True):
            check = _compare(name, batch, reference, output, dtype)
            _require(check, dtype, folder)
            checks.append(check)
    return checks


def _require(check: ExportCheck, dtype: str, folder: Path) -> None:
    min_agreement, max_error = MIN_AGREEMENT[dtype], MAX_ERROR[dtype]
    if check.task == "pose":
        min_agreement = min(min_agreement, MIN_JOINT_AGREEMENT)
    if check.task != "segmentation":
        max_error = max(max_error, MAX_CROP_ERROR)
    # `not (... <= ...)` also rejects NaN.
    if not (check.agreement >= min_agreement and check.error <= max_error):
        raise UserError(
            f"the export in {folder} differs from its checkpoint: {check}, but "
            f"{min_agreement:.1%} and {max_error:.0e} are allowed. Do not use it"
        )


def _compare(
    file: str, batch: Arrays, expected: Arrays, outputs: Arrays, dtype: str
) -> ExportCheck:
    height, width = batch["image"].shape[-3:-1]
    if "joints" in expected:
        joints, actual = expected["joints"], outputs["joints"]
        distance = np.linalg.norm(joints[..., :2] - actual[..., :2], axis=-1)
        return ExportCheck(
            file,
            (len(joints), height, width),
            agreement=float((distance <= JOINT_TOLERANCE[dtype]).mean()),
            error=_relative_error(joints[..., 2], actual[..., 2]),
            task="pose",
        )
    if "probabilities" in expected:
        probabilities, actual = expected["probabilities"], outputs["probabilities"]
        largest = probabilities.max(1)
        chosen = np.take_along_axis(probabilities, actual.argmax(1)[:, None], 1)[:, 0]
        return ExportCheck(
            file,
            (len(batch["image"]), height, width),
            agreement=float((chosen >= (1 - CLASS_TOLERANCE[dtype]) * largest).mean()),
            error=_relative_error(probabilities, actual),
            task="classification",
        )
    return ExportCheck(
        file,
        (len(batch["image"]), height, width),
        agreement=float((expected["labels"] == outputs["labels"]).mean()),
        error=_relative_error(expected["logits"], outputs["logits"]),
    )


def _relative_error(expected: np.ndarray, actual: np.ndarray) -> float:
    return float(np.abs(expected - actual).max() / np.abs(expected).max())


def read_description(folder: Path) -> tuple[str, list[str], Size | None]:
    """Returns the checkpoint of an export, its model files, and the fixed size of ONNX, if any.

    Raises:
      UserError: `model.json` is missing or damaged.
    """
    try:
        description = read_json_object(folder / "model.json") or {}
        checkpoint, size = str(description["checkpoint"]), description["onnx_size"]
        names = list(description["files"])
        if not names or not set(names) <= set(MODEL_FILES.values()):
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


def random_inputs(predictor: ExportablePredictor, size: Size | None) -> list[dict[str, np.ndarray]]:
    """Returns random inputs of images of size (h, w) or, for None, of several sizes."""
    if isinstance(predictor, PosePredictor):
        height, width = size or (2 * predictor.config["data"]["crop"][0] + 1, 301)
        (image,) = random_batches([(1, height, width)])
        # Inside, beyond a corner, wider than high, and a narrow one.
        relative = [(0.1, 0.2, 0.4, 0.7), (-0.2, -0.1, 0.6, 0.5), (0.5, 0.3, 0.6, 0.2)]
        relative.append((0.6, 0.5, 0.05, 0.3))
        boxes = np.array(relative, np.float32) * [width, height, width, height]
        return [{"image": image[0], "boxes": boxes.astype(np.float32)}]
    channels = predictor.task.in_channels
    if isinstance(predictor, ClassPredictor):
        above = 2 * predictor.config["data"]["crop"][0] + 1
    else:
        above = round(1.3 * predictor.long_side)
    shapes = [(2, *size)] if size else [(1, 64, 96), (3, 97, 71)]
    if above and not size:
        shapes.append((1, above, above * 3 // 4 + 1))
    return [{"image": batch} for batch in random_batches(shapes, channels)]


def _predict(predictor: ExportablePredictor, batches: Sequence[Arrays]) -> list[Arrays]:
    """Computes the outputs of the checkpoint; for segmentation, by one pass per image."""
    outputs: list[Arrays] = []
    with progress.track("predicting random images", len(batches)) as advance:
        if isinstance(predictor, PosePredictor):
            for batch in batches:
                prediction = predictor(batch["image"], batch["boxes"].tolist())
                outputs.append({"joints": prediction.poses, "scores": prediction.scores})
                advance()
            return outputs
        if isinstance(predictor, ClassPredictor):
            for batch in batches:
                rows = [predictor(image).probabilities for image in batch["image"]]
                outputs.append({"probabilities": np.stack(rows)})
                advance()
            return outputs
        single_pass = replace(predictor, protocol=single_pass_protocol(predictor.protocol))
        program = jax.jit(make_program(predictor))
        for batch in batches:
            labels = np.stack([single_pass(image).labels for image in batch["image"]])
            logits = np.asarray(program(batch["image"])["logits"])
            outputs.append({"labels": labels, "logits": logits})
            advance()
    return outputs


_LOADERS = {
    ".jax": """
from jax import export, jit
run = jit(export.deserialize(bytearray(model)).call)
call = lambda inputs: run(*inputs.values())
""",
    ".onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
output_names = [output.name for output in session.get_outputs()]
call = lambda inputs: dict(zip(output_names, session.run(output_names, inputs)))
""",
}
_RUN = """
import json, sys
sys.modules["gsto_jax"] = None  # any import of it fails
import numpy as np
model = open(sys.argv[1], "rb").read()
{loader}
arrays, outputs = np.load(sys.argv[2]), {{}}
for n, input_names in enumerate(json.loads(sys.argv[4])):
    results = call({{name: arrays[f"{{n}}/{{name}}"] for name in input_names}})
    outputs |= {{f"{{n}}/{{name}}": np.asarray(value) for name, value in results.items()}}
np.savez(sys.argv[3], **outputs)
"""


def _run_in_subprocess(path: Path, batches: Sequence[Arrays]) -> list[Arrays]:
    """Returns the outputs of an exported model, run in a subprocess."""
    code = _RUN.format(loader=_LOADERS[path.suffix])
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        arrays = {f"{n}/{name}": x for n, batch in enumerate(batches) for name, x in batch.items()}
        np.savez(inputs, **arrays)  # type: ignore[arg-type]
        names = json.dumps([list(batch) for batch in batches])
        command = [sys.executable, "-I", "-c", code, *map(str, (path, inputs, outputs)), names]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{path} fails in a subprocess: {reason}")
        with np.load(outputs) as values:
            results: list[dict[str, np.ndarray]] = [{} for _ in batches]
            for key in values:
                n, _, name = key.partition("/")
                results[int(n)][name] = values[key]
            return list(results)
