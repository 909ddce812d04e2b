"""Exports a network as programs that run without this project, and verifies them.

Or exports its weights alone, under the parameter names of another implementation, or as a folder
for the Hugging Face hub.
"""

import re
from pathlib import Path
from typing import Any

import jax

from gsto_jax.errors import UserError
from gsto_jax.files import is_disk_full, make_folder
from gsto_jax.hub.folder import write_hub_folder
from gsto_jax.hub.origin import find_origin, find_scores
from gsto_jax.predict.export import export, preprocessing
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.verify import verify
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.storage import error_reason, file_size, to_path
from gsto_jax.weights import WEIGHT_WRITERS, export_format, export_weights
from modes.terminal_output import log


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
    jax.config.update("jax_platforms", "cpu")  # for an exact comparison
    trained = load_trained(args.checkpoint)
    folder = to_path(args.output or "export", "--output")
    weights = [name for name in args.formats if f".{name}" in WEIGHT_WRITERS]
    programs = [name for name in args.formats if name not in (*weights, "hub")]
    if args.license and "hub" not in args.formats:
        raise UserError(f"--license is for --formats=hub; got --formats={','.join(args.formats)}")
    if programs or not args.formats:
        write_programs(trained, folder, programs, size, args.long_side)
    for name in weights:
        log(f"export      {write_weights(trained, folder / f'weights.{name}')}")
    if "hub" in args.formats:
        write_hub(trained, folder / "hub", args.license)
    log(f"checkpoint  {trained.path}")


def write_programs(
    trained: TrainedModel,
    folder: Path,
    formats: list[str],
    size: tuple[int, int] | None,
    long_side: int | None,
) -> None:
    """Exports the network as programs, and verifies them against its predictions."""
    if trained.task.config.task != "segmentation":
        raise UserError(
            f"{trained.path} is a {trained.task.config.task} checkpoint; only segmentation "
            "networks can be exported as programs: use --formats=safetensors,pth for its weights"
        )
    predictor = Predictor.from_trained(trained, long_side)
    if protocol := preprocessing(predictor)["test_protocol"]:
        log(f"note: --mode=predict uses {protocol}; the programs run one pass at scale 1")
    for path in export(predictor, folder, formats, size):
        log(f"export      {path} ({file_size(path) / 2**20:.1f} MiB)")
    for check in verify(predictor, folder):
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
        make_folder(path.parent)
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
