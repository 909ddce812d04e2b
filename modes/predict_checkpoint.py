"""Predicts inputs with the network of a checkpoint, by JAX."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gsto_jax.config import RUNTIME, option_role
from gsto_jax.devices.compilation_cache import use_compilation_cache
from gsto_jax.errors import UserError
from gsto_jax.image_files import MAX_PIXELS, DecodeOptions, ImageHeader
from gsto_jax.ops.sizes import downscaled_size
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.predict.export import export
from gsto_jax.predict.inputs import Input
from gsto_jax.predict.outputs import FEATURE_OUTPUTS
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.prediction import Prediction
from gsto_jax.predict.programs import Program, load_program
from gsto_jax.predict.row_readers import RowReader
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.segmentation.compiled_shapes import compilation_note
from modes.input_predictors import (
    DECODE_OPTIONS,
    LABEL_FLAGS,
    PREDICTOR_FLAGS,
    ClassInputs,
    LabelInputs,
    PoseInputs,
    config_overrides,
    first_names,
    refuse_flags,
)
from modes.predict_program import check_flags, inputs_of
from modes.prediction_pipeline import InputPredictor
from modes.terminal_output import log

_INPUTS: Mapping[str, type[InputPredictor]] = {
    "segmentation": LabelInputs,
    "pose": PoseInputs,
    "classification": ClassInputs,
}


def checkpoint_inputs(args: Any, inputs: Sequence[Input]) -> InputPredictor:
    """Loads the checkpoint `args.checkpoint` to predict the inputs; raises UserError."""
    trained = override_config(load_trained(args.checkpoint), args)
    if args.runtime == "onnx":
        predictor: InputPredictor = inputs_of(export_program(trained, args), args, inputs)
        predictor.runtime = "ONNX Runtime, as --runtime says"
        return predictor
    task = trained.task.config.task
    outputs = args.save or _INPUTS[task].default_outputs
    if "gates" in outputs and not trained.task.config.model.has_gates:
        raise UserError(f"--save=gates: the network of {trained.path} has no gates")
    if task == "pose":
        predictor = pose_inputs(trained, args, inputs, outputs)
    elif task == "classification":
        predictor = class_inputs(trained, args, outputs)
    else:
        predictor = TrainedLabelInputs(trained, args, inputs, outputs)
    use_compilation_cache(trained.task.config.run.compilation_cache)
    reason = "which needs no export" if args.runtime == "auto" else "as --runtime says"
    predictor.runtime = f"JAX on {jax.default_backend()}, {reason}"
    return predictor


def export_program(trained: TrainedModel, args: Any) -> Program:
    """Exports a network, and loads the program in ONNX Runtime.

    Raises:
      UserError: flags, a test protocol or a network that programs do not support.
    """
    check_flags(args, "needs --runtime=jax")
    predictor: Any
    if trained.task.config.task == "classification":
        predictor = ClassPredictor(trained)
    elif trained.task.config.task == "pose":
        predictor = PosePredictor(trained)
    else:
        pad_to = vars(args).get("config.eval.pad_to")
        predictor = Predictor.from_trained(trained, args.long_side, pad_to)
        if not predictor.protocol.is_single_pass:
            raise UserError(
                f"--runtime=onnx computes one pass at scale 1; the test protocol is "
                f"{predictor.protocol}. Use --runtime=jax, or set config.eval.scales, flip, window"
            )
    with tempfile.TemporaryDirectory() as folder:
        export(predictor, folder, ("onnx",))
        program = load_program(Path(folder) / "model.onnx")
    return replace(program, path=trained.path, remedy="Use --runtime=jax")


def override_config(trained: TrainedModel, args: Any) -> TrainedModel:
    """Applies --config.NAME=VALUE to the config of a checkpoint.

    Raises:
      UserError: an option that determines the network or its training, or an invalid value.
    """
    overrides = config_overrides(args)
    config = {**trained.config}
    for option, value in overrides.items():
        _, section, *name = option.split(".")
        is_runtime = section in ("eval", "pose") and option_role(f"{section}.{name[0]}") == RUNTIME
        if not is_runtime and (section != "data" or name[0] not in DECODE_OPTIONS):
            raise UserError(
                f"--{option} is fixed by the checkpoint: only options of config.eval, those of "
                "config.pose that decode heatmaps, and those that decode images "
                f"(config.data.{', '.join(DECODE_OPTIONS)}) can be overridden"
            )
        config[section] = {**config[section], name[0]: value}
    try:
        DecodeOptions.of(config["data"])
    except ValueError as error:
        raise UserError(f"config.data: {error}") from None
    return replace(trained, config=config, task=task_from_config(config)) if overrides else trained


class TrainedLabelInputs(LabelInputs):
    """Predicts class labels by a checkpoint, large images in tiles.

    Args:
      trained: the network.
      args: the flags.
      inputs: all inputs.
      outputs: names of the outputs to write.
    """

    def __init__(
        self, trained: TrainedModel, args: Any, inputs: Sequence[Input], outputs: Sequence[str]
    ) -> None:
        refuse_flags(args, ("boxes",), "is for pose checkpoints; this is a segmentation checkpoint")
        options = {name: getattr(args, name) for name in PREDICTOR_FLAGS}
        options = {name: value for name, value in options.items() if value is not None}
        if args.tile and args.long_side:
            raise UserError("--long_side and --tile exclude each other: tiles are not downscaled")
        pad_to = vars(args).get("config.eval.pad_to")
        predictor = Predictor.from_trained(trained, args.long_side, pad_to, **options)
        self.with_features = bool(FEATURE_OUTPUTS & set(outputs))
        if self.with_features and args.tile:
            raise UserError("--save=branches,gates and --tile exclude each other")
        super().__init__(predictor, inputs, outputs)
        self.tiled = {
            entry
            for entry, header in self.headers.items()
            if args.tile or math.prod(header.size) > MAX_PIXELS
        }
        self._log_shapes(self.headers, is_automatic=not args.tile)

    def _log_shapes(self, headers: Mapping[Input, ImageHeader], is_automatic: bool) -> None:
        options, predictor = self.decode_options, self.predictor
        sizes = {
            downscaled_size(header.oriented_size(options), predictor.long_side)
            for entry, header in headers.items()
            if entry not in self.tiled
        }
        if note := compilation_note(predictor.protocol, sizes):
            log(note)
        if self.tiled and is_automatic:
            log(
                f"note: {len(self.tiled)} images of more than {MAX_PIXELS // 10**6} million pixels "
                f"are predicted at full size, in tiles of {predictor.tile_side} pixels (--tile): "
                f"{first_names([entry.path.name for entry in headers if entry in self.tiled])}"
            )

    def __call__(self, entry: Input, image: np.ndarray) -> Prediction:
        """See `InputPredictor`."""
        if self.predictor.tile:  # a frame of a video
            return super().__call__(entry, image)
        return self.counted(entry, self.predictor(image, self.with_features, self.measures))

    def predict_rows(self, entry: Input, image: RowReader) -> Iterator[Prediction]:
        """See `InputPredictor.predict_rows`."""
        if self.with_features:
            raise UserError(f"{entry.path} is predicted in tiles, without --save=branches,gates")
        for prediction in self.predictor.predict_rows(image, self.measures):
            yield self.counted(entry, prediction)


def pose_inputs(
    trained: TrainedModel, args: Any, inputs: Sequence[Input], outputs: Sequence[str]
) -> PoseInputs:
    """Returns a predictor of joints by a checkpoint; raises UserError for flags of labels."""
    refuse_flags(args, LABEL_FLAGS, "is for segmentation checkpoints; this is a pose checkpoint")
    predictor = PosePredictor(trained)
    with_features = bool(FEATURE_OUTPUTS & set(outputs))
    predict = partial(predictor, with_features=with_features)
    return PoseInputs(predict, predictor, inputs, args.boxes)


def class_inputs(trained: TrainedModel, args: Any, outputs: Sequence[str]) -> ClassInputs:
    """Returns a predictor of classes by a checkpoint; raises UserError for flags of other tasks."""
    refuse_flags(args, (*LABEL_FLAGS, "boxes"), "is not for classification checkpoints")
    predictor = ClassPredictor(trained)
    with_features = bool(FEATURE_OUTPUTS & set(outputs))
    return ClassInputs(partial(predictor, with_features=with_features), predictor)
