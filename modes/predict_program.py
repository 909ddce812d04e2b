"""Predicts inputs with an exported program. Imports no JAX."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.image_files import DecodeOptions
from gsto_jax.predict.exported import ExportedPredictor
from gsto_jax.predict.exported_classes import ExportedClassPredictor
from gsto_jax.predict.exported_pose import ExportedPosePredictor
from gsto_jax.predict.inputs import Input
from gsto_jax.predict.outputs import FEATURE_OUTPUTS
from gsto_jax.predict.programs import Program, load_program
from modes.input_predictors import (
    DECODE_OPTIONS,
    LABEL_FLAGS,
    ClassInputs,
    LabelInputs,
    PoseInputs,
    config_overrides,
    refuse_flags,
)
from modes.prediction_pipeline import InputPredictor


def program_inputs(args: Any, path: Path, inputs: Sequence[Input]) -> InputPredictor:
    """Loads an exported program to predict the inputs; raises UserError."""
    if args.long_side is not None:
        raise UserError(
            f"--long_side is part of {path}: pass it to --mode=export, or use --checkpoint=RUN"
        )
    check_flags(args, "needs --checkpoint=RUN")
    program = load_program(path)
    if args.runtime not in ("auto", program.runtime):
        raise UserError(
            f"--runtime={args.runtime} does not run {path}: pass --runtime={program.runtime}, a "
            "program of the other format, or --checkpoint=RUN"
        )
    predictor = inputs_of(override_decoding(program, args), args, inputs)
    name = {"onnx": "ONNX Runtime", "jax": "JAX"}[program.runtime]
    predictor.runtime = f"{name}, which runs {path.name}"
    return predictor


def check_flags(args: Any, remedy: str) -> None:
    """Raises UserError, with a remedy, for flags that exported programs do not support."""
    reason = f"{remedy}: an exported program predicts whole images"
    refuse_flags(args, ("tile", "tile_overlap"), reason)
    features = [name for name in args.save or () if name in FEATURE_OUTPUTS]
    if features:
        raise UserError(
            f"--save={','.join(features)} {remedy}: an exported program returns no feature maps"
        )


def inputs_of(program: Program, args: Any, inputs: Sequence[Input]) -> InputPredictor:
    """Returns the predictor of the inputs; raises UserError for flags of other tasks."""
    path = program.path
    if program.task_name == "pose":
        refuse_flags(args, LABEL_FLAGS, f"is for segmentation networks; {path} is a pose network")
        poses = ExportedPosePredictor(program)
        return PoseInputs(poses, poses, inputs, args.boxes)
    refuse_flags(args, ("boxes",), f"is for pose networks; {path} is a {program.task_name} network")
    if program.task_name == "classification":
        reason = f"is for segmentation networks; {path} is a classification network"
        refuse_flags(args, LABEL_FLAGS, reason)
        classes = ExportedClassPredictor(program)
        return ClassInputs(classes, classes)
    outputs = args.save or LabelInputs.default_outputs
    options = {} if args.unsure_below is None else {"unsure_below": args.unsure_below}
    return LabelInputs(ExportedPredictor(program, **options), inputs, outputs)


def override_decoding(program: Program, args: Any) -> Program:
    """Applies --config.data.NAME=VALUE to how a program's image files are decoded.

    Raises:
      UserError: another option, or an invalid value.
    """
    options = asdict(program.decode_options)
    for option, value in config_overrides(args).items():
        section, _, name = option.removeprefix("config.").partition(".")
        if section != "data" or name not in DECODE_OPTIONS:
            raise UserError(
                f"--{option} is part of {program.path}: only options that decode images "
                f"(config.data.{', '.join(DECODE_OPTIONS)}) can be overridden. Use --checkpoint=RUN"
            )
        options[name] = value
    try:
        options = asdict(DecodeOptions(**options))
    except ValueError as error:
        raise UserError(f"config.data: {error}") from None
    description = {**program.description, "decode_options": options}
    return replace(program, description=description)
