"""Converts a trained network to a TensorFlow SavedModel and to a LiteRT model.

    python examples/saved_model.py RUN DIR [--size=360x480]

writes the program of --mode=export (docs/export.md), with the same inputs and outputs, as

DIR/saved_model/  a SavedModel for the CPU, for any image size and number of images or persons
DIR/model.tflite  a LiteRT model for one image of --size, and one person; without labels, which need
                  operations that LiteRT lacks: they are the argmax of the upsampled logits

and compares both with the program. It needs this package, and tensorflow for jax's jax2tf.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tensorflow as tf
from jax.experimental import jax2tf

from gsto_jax.errors import UserError
from gsto_jax.predict.classification import ClassPredictor
from gsto_jax.predict.description import ExportablePredictor
from gsto_jax.predict.onnx_export import program_source
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.program_source import ProgramSource
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.runs.trained import load_trained

TOLERANCE = 1e-3  # of the largest value of an output

NamedArrays = dict[str, np.ndarray]


def write_saved_model(
    source: ProgramSource, shapes: Sequence[Sequence[int | str]], outputs: Sequence[str], path: str
) -> None:
    """Writes a program as a SavedModel.

    Args:
      source: the program.
      shapes: of its inputs; letters are free lengths.
      outputs: names of the outputs to keep.
      path: folder to write.
    """
    function = jax2tf.convert(
        lambda *arrays: {name: x for name, x in source.call(*arrays).items() if name in outputs},
        polymorphic_shapes=[", ".join(map(str, shape)) for shape in shapes],
        native_serialization_platforms=("cpu",),
        with_gradient=False,
    )
    signature = [
        tf.TensorSpec([x if isinstance(x, int) else None for x in shape], spec.dtype, name)
        for shape, (name, spec) in zip(shapes, source.inputs.items(), strict=True)
    ]
    module = tf.Module()
    module.call = tf.function(function, signature, autograph=False)
    tf.saved_model.save(module, path, signatures={"serving_default": module.call})


def run_saved_model(path: str, arrays: NamedArrays) -> NamedArrays:
    """Returns the outputs of a SavedModel."""
    call = tf.saved_model.load(path).signatures["serving_default"]
    outputs = call(**{name: tf.constant(x) for name, x in arrays.items()})
    return {name: x.numpy() for name, x in outputs.items()}


def run_tflite(model: bytes, arrays: NamedArrays) -> NamedArrays:
    """Returns the outputs of a LiteRT model."""
    run = tf.lite.Interpreter(model_content=model).get_signature_runner("serving_default")
    return dict(run(**arrays))


def compare(name: str, actual: NamedArrays, expected: NamedArrays) -> None:
    """Prints the difference of each output, and exits if it is above TOLERANCE."""
    for output, values in sorted(actual.items()):
        reference = expected[output].astype(np.float64)
        difference = np.abs(values - reference).max() / max(1, np.abs(reference).max())
        if output == "labels":
            difference = np.mean(values != reference)
        print(f"{name}: {output} differ by {difference:.1e}")
        if not difference <= TOLERANCE:
            sys.exit(f"error: {name} differs from the program by more than {TOLERANCE:g}")


def convert(source: ProgramSource, folder: Path, size: tuple[int, int]) -> None:
    """Writes both models, and compares their outputs on a random image of a size (h, w)."""
    height, width = size
    lengths: dict[str | int, int] = {"b": 1, "h": height, "w": width, "n": 1}
    shapes = [spec.shape for spec in source.inputs.values()]
    fixed = [[int(lengths.get(x, x)) for x in shape] for shape in shapes]
    arrays = {"image": np.random.default_rng(0).integers(0, 256, fixed[0], np.uint8)}
    if "boxes" in source.inputs:
        arrays["boxes"] = np.array([[0, 0, width, height]], np.float32)
    expected = jax.tree.map(np.asarray, jax.jit(source.call)(*arrays.values()))

    path = str(folder / "saved_model")
    write_saved_model(source, shapes, list(source.outputs), path)
    compare("saved_model", run_saved_model(path, arrays), expected)

    with tempfile.TemporaryDirectory() as path:
        outputs = [name for name in source.outputs if name != "labels"]
        write_saved_model(source, fixed, outputs, path)
        model = tf.lite.TFLiteConverter.from_saved_model(path).convert()
    (folder / "model.tflite").write_bytes(model)
    compare("model.tflite", run_tflite(model, arrays), expected)


def make_predictor(checkpoint: str) -> ExportablePredictor:
    """Builds the predictor of a checkpoint."""
    trained = load_trained(checkpoint)
    task = trained.task.config.task
    if task == "segmentation":
        return Predictor.from_trained(trained)
    return PosePredictor(trained) if task == "pose" else ClassPredictor(trained)


def main() -> None:
    """Converts the network that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", help="a run, its best/, or a checkpoint")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--size", default="512x512", help="height x width for LiteRT")
    args = parser.parse_args()
    match = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if match is None:
        parser.error(f"--size must be HEIGHTxWIDTH, such as 512x1024; got {args.size!r}")
    try:
        source = program_source(make_predictor(args.checkpoint))
    except UserError as error:
        parser.error(str(error))
    convert(source, args.folder, (int(match[1]), int(match[2])))


if __name__ == "__main__":
    main()
