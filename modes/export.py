"""Writes a network as programs that need nothing of this project, and compares them with it."""

import re
from pathlib import Path
from typing import Any

import jax

from gsto_jax.errors import UserError
from gsto_jax.export import export, verify
from gsto_jax.loading import load_trained
from gsto_jax.predictor import Predictor
from modes.common import DEFAULTS
from modes.terminal import make_show


def run(args: Any) -> None:
    """Exports. Raises UserError, also if an artefact differs from its checkpoint."""
    if not args.checkpoint:
        raise UserError("--mode=export needs --checkpoint: a run, its best/, or a checkpoint")
    size = None
    if args.onnx_size:
        match = re.fullmatch(r"(\d+)x(\d+)", args.onnx_size)
        if match is None:
            raise UserError(f"--onnx_size={args.onnx_size}: give HEIGHTxWIDTH, such as 512x1024")
        size = (int(match[1]), int(match[2]))
    show = make_show()
    jax.config.update("jax_platforms", "cpu")  # exact, for the comparison
    trained = load_trained(args.checkpoint, DEFAULTS)
    if trained.task.config.task != "segmentation":
        raise UserError(
            f"checkpoint {trained.path} is of a {trained.task.config.task} task: only segmentation "
            "networks can be exported"
        )
    predictor = Predictor.of(trained)
    folder = Path(args.output or "export").expanduser().absolute()
    for path in export(predictor, folder, args.formats, size):
        show(f"export      {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    for check in verify(predictor, folder):
        show(f"compared    {check}")
    show(f"checkpoint  {predictor.path}")
