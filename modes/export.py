"""Exports a network as programs that run without this project, and verifies them.

Or exports its weights alone, under the parameter names of another implementation, or as a folder
for the Hugging Face hub.
"""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gsto_jax import progress
from gsto_jax.errors import UserError
from gsto_jax.files import is_disk_full
from gsto_jax.hub.folder import write_hub_folder
from gsto_jax.hub.origin import find_origin, find_scores
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.predict.description import ExportablePredictor, preprocessing
from gsto_jax.predict.export import check_exportable, export
from gsto_jax.predict.inputs import find_inputs
from gsto_jax.predict.media import load_pixels
from gsto_jax.predict.onnx_precision import spread
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.verify import verify
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.storage import error_reason, file_size, to_path
from gsto_jax.weights import WEIGHT_WRITERS, export_format, export_weights
from modes.terminal_output import log

CALIBRATION_IMAGES = 64
_COMPARED_IMAGES = 4


def run(args: Any) -> None:
    """Runs the mode. Raises UserError, also if an export differs from its checkpoint."""
    if not args.checkpoint:
        raise UserError("--mode=export needs --checkpoint: a run, its best/, or a checkpoint")
    size = None
    if args.onnx_size:
        match = re.fullmatch(r"(\d+)x(\d+)", args.onnx_size)
        if match is None:
            raise UserError(
                f"--onnx_size must be HEIGHTxWIDTH, such as 512x1024; got {args.onnx_size!r}"
            )
        size = (int(match[1]), int(match[2]))
    if bool(args.calibration) != ("onnx-int8" in args.formats):
        raise UserError(
            "--calibration, a folder of images like those to predict, is needed for "
            "--formats=onnx-int8, and only for it; got "
            f"--calibration={args.calibration or ''} and --formats={','.join(args.formats)}"
        )
    jax.config.update("jax_platforms", "cpu")  # for an exact comparison
    trained = load_trained(args.checkpoint)
    folder = to_path(args.output or "export", "--output")
    weights = [name for name in args.formats if f".{name}" in WEIGHT_WRITERS]
    programs = [name for name in args.formats if name not in (*weights, "hub")]
    if args.license and "hub" not in args.formats:
        raise UserError(f"--license is for --formats=hub; got --formats={','.join(args.formats)}")
    if programs or not args.formats:
        predictor = make_predictor(trained, args.long_side)
        check_exportable(predictor, programs, size)
        images = read_calibration(predictor, args.calibration, folder) if args.calibration else []
        write_programs(predictor, folder, programs, size, images)
    for name in weights:
        log(f"export      {write_weights(trained, folder / f'weights.{name}')}")
    if "hub" in args.formats:
        write_hub(trained, folder / "hub", args.license)
    log(f"checkpoint  {trained.path}")


def make_predictor(trained: TrainedModel, long_side: int | None) -> ExportablePredictor:
    """Builds the predictor whose program is exported."""
    task = trained.task.config.task
    if task == "segmentation":
        return Predictor.from_trained(trained, long_side)
    if long_side is not None:
        raise UserError(f"--long_side is for segmentation networks; got {trained.path}, for {task}")
    return ClassPredictor(trained) if task == "classification" else PosePredictor(trained)


def read_calibration(
    predictor: ExportablePredictor, calibration: str, output: Path
) -> list[np.ndarray]:
    """Reads the images of `--calibration`, at most `CALIBRATION_IMAGES`, evenly spaced by name."""
    try:
        images = [x.path for x in find_inputs([calibration], output) if not x.is_video]
        if not images:
            raise UserError(f"{calibration} holds videos only")
        paths = spread(sorted(images), CALIBRATION_IMAGES)
        with progress.track("reading calibration images", len(paths)) as advance:
            pixels = []
            for path in paths:
                pixels.append(load_pixels(path, predictor.decode_options))
                advance()
    except UserError as error:
        raise UserError(
            f"--calibration must be a folder of images, all of them readable: {error}"
        ) from None
    return pixels


def write_programs(
    predictor: ExportablePredictor,
    folder: Path,
    formats: list[str],
    size: tuple[int, int] | None,
    calibration: list[np.ndarray],
) -> None:
    """Exports the network as programs, and verifies them against its predictions."""
    if protocol := preprocessing(predictor).get("test_protocol"):
        log(f"note: --mode=predict uses {protocol}; the programs run one pass at scale 1")
    for path in export(predictor, folder, formats, size, calibration):
        log(f"export      {path} ({file_size(path) / 2**20:.1f} MiB)")
    for check in verify(predictor, folder, images=calibration[:_COMPARED_IMAGES]):
        log(f"compared    {check}")


def write_hub(trained: TrainedModel, folder: Path, license_name: str) -> None:
    """Writes a folder for the Hugging Face hub."""
    origin, scores = find_origin(trained.path, license_name), find_scores(trained.path)
    for path in write_hub_folder(folder, trained, origin, scores):
        log(f"export      {path} ({file_size(path) / 2**20:.1f} MiB)")
    if scores is None:
        log("note: the card has no scores, since this checkpoint was not evaluated: --mode=eval")
    if origin.note:
        log(origin.note)


def write_weights(trained: TrainedModel, path: Path) -> str:
    """Writes the weights under the names of another implementation; returns a summary."""
    weight_format = export_format(trained.task.config.model)
    try:
        missing = export_weights(path, trained.variables, weight_format)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"{path} cannot be written ({error_reason(error)}): use a writable --output"
        ) from None
    without = (
        f", without {' and '.join(weight_format.optional)}: {missing} arrays" if missing else ""
    )
    return f"{path} ({weight_format.name} names{without}, {file_size(path) / 2**20:.1f} MiB)"
