"""Predicts images and videos with the network of a checkpoint, or with an exported program.

Imports JAX only for checkpoints and for programs of JAX.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.predict.files import PredictionWriter
from gsto_jax.predict.inputs import Input, find_inputs
from gsto_jax.predict.programs import find_program
from gsto_jax.predict.video_writer import CODECS
from gsto_jax.storage import to_path
from modes.input_predictors import first_names, read_headers
from modes.predict_program import program_inputs
from modes.prediction_pipeline import PredictionPipeline
from modes.terminal_output import Log, log

_RUNTIMES = ("auto", "jax", "onnx")


def run(args: Any) -> None:
    """Runs the mode. Exits with status 1 if a file could not be predicted."""
    if not args.checkpoint:
        raise UserError(
            "--mode=predict needs --checkpoint: a run, its best/, a checkpoint, or an export"
        )
    if args.runtime not in _RUNTIMES:
        raise UserError(f"--runtime must be one of {', '.join(_RUNTIMES)}; got {args.runtime!r}")
    output = to_path(args.output or "predictions", "--output")
    skipped: list[Path] = []
    inputs = find_inputs(args.inputs, output, skipped.append)
    if skipped:
        names = first_names([path.name for path in skipped])
        log(f"warning: skipping {len(skipped)} files that are neither images nor videos: {names}")
    program = find_program(args.checkpoint, args.runtime)
    if program is None:
        from modes.predict_checkpoint import checkpoint_inputs

        predictor = checkpoint_inputs(args, inputs)
    else:
        predictor = program_inputs(args, program, inputs)
    outputs = args.save or predictor.default_outputs
    writer = PredictionWriter(output, outputs, predictor.outputs, args.legend)
    predictor.write_legend(output)
    for entry in inputs:
        if entry.name.rpartition("/")[2] != entry.path.stem:
            log(f"{entry.path} is saved as {entry.name}")
    if predictor.decode_options.orientation == "stored":
        _warn_about_orientation(inputs, log)
    pipeline = PredictionPipeline(predictor, writer)
    try:
        pipeline.run(inputs)
    finally:  # also when interrupted
        predictor.write_results(output, pipeline.failed)
    for message in pipeline.errors:
        print(f"error: {message}", file=sys.stderr)
    if note := predictor.note():
        log(note)
    completed = len(inputs) - len(pipeline.failed)
    log(f"{completed} of {len(inputs)} predicted: {', '.join(writer.outputs)}")
    for codec in sorted(writer.codecs - {"avc1"}):
        log(f"videos      {CODECS[codec]}")
    log(f"predictions {output}")
    log(f"runtime     {predictor.runtime}")
    log(f"checkpoint  {predictor.checkpoint}")
    if pipeline.errors:
        sys.exit(1)


def _warn_about_orientation(inputs: Sequence[Input], log: Log) -> None:
    """Warns about images whose EXIF orientation is ignored, as it was in training."""
    rotated = [entry for entry, header in read_headers(inputs) if header.orientation != 1]
    if rotated:
        log(
            f"warning: {len(rotated)} images have an EXIF orientation, such as {rotated[0].path}, "
            "and are read as stored, as in training: --config.data.orientation=upright applies it"
        )
